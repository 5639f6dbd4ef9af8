"""The ladder inside of calls whose code knows nothing of us, on a virtual clock and a modelled card."""

from __future__ import annotations

from threading import Event, Thread
from typing import Any

import pytest

from helix_crawl_otel.instrument import calls
from tests.instrument.conftest import Watched, is_moved
from tests.instrument.models import sentence_model, texts

HEALTHY, SLOW = 4.0, 28.0


def actions(watched: Watched) -> list[tuple[str, str, str]]:
    """Shard, kind and outcome of each."""
    return [(line["shard"].rpartition(":")[2], line["kind"], line["outcome"]) for line in watched.lines("action")]


def half_model() -> Any:
    """On a card it would be so."""
    return sentence_model().half()


def test_one_long_call_is_released_and_then_finished_on_the_cpu(watched: Watched) -> None:
    """EMPTY_CACHE between two passes, then in place to the CPU, in full precision; half comes back, on both sides of
    the move; when the call has ended the model is as it was."""
    import torch

    model = half_model()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    kinds: list[Any] = []
    passes = watched.slow_down(model, HEALTHY, SLOW, after=8)
    model[0].register_forward_pre_hook(lambda module, given: kinds.append(is_moved(module)))
    given = texts(60)
    vectors = model.encode(given, batch_size=2, convert_to_tensor=True)
    assert len(passes) == 30
    assert vectors.dtype == torch.float16
    assert kinds[:8] == [False] * 8
    assert kinds[-5:] == [True] * 5
    plain = sentence_model().half().encode(given, batch_size=2, convert_to_tensor=True)
    assert torch.nn.functional.cosine_similarity(vectors.float(), plain.float()).min() > 0.999
    for name, value in model.state_dict().items():
        assert value.dtype == weights[name].dtype
        assert torch.equal(value, weights[name]), name
    seen = [(kind, outcome) for _, kind, outcome in actions(watched) if kind != "DETECT"]
    assert seen == [("EMPTY_CACHE", "applied"), ("RECYCLE", "passed_over"), ("DEMOTE_CPU", "applied")]


def test_short_calls_are_finished_on_the_cpu_as_well(watched: Watched) -> None:
    """A loop of calls of one pass, as LlamaIndex makes them: what is asked for between two calls moves the next one."""
    model = half_model()
    moved: list[bool] = []
    watched.slow_down(model, HEALTHY, SLOW, after=8)
    model[0].register_forward_pre_hook(lambda module, given: moved.append(is_moved(module)))
    for _ in range(30):
        model.encode(texts(2))
        assert not is_moved(model)
    assert moved == sorted(moved)
    assert moved[-5:] == [True] * 5
    assert ("DEMOTE_CPU", "applied") in [(kind, outcome) for _, kind, outcome in actions(watched)]


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
@pytest.mark.parametrize("asked", [{"precision": "int8"}, {"output_value": None}], ids=["int8", "all outputs"])
def test_results_of_a_moved_model_are_of_the_kind_that_was_asked_for(
    watched: Watched, kind: str, asked: dict[str, Any]
) -> None:
    """Full precision is the model's while it is away, and nobody else's."""
    import torch

    def kinds(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: kinds(each) for name, each in value.items()}
        if isinstance(value, list):
            return [kinds(each) for each in value]
        return type(value), getattr(value, "dtype", None), getattr(value, "shape", None)

    model, given = sentence_model().to(getattr(torch, kind)), texts(60)
    plain = kinds(model.encode(given, batch_size=2, **asked))
    watched.slow_down(model, HEALTHY, SLOW, after=8)
    assert kinds(model.encode(given, batch_size=2, **asked)) == plain
    assert ("DEMOTE_CPU", "applied") in [(kind, outcome) for _, kind, outcome in actions(watched)]


def test_calls_within_the_cool_down_are_encoded_on_the_cpu_and_later_ones_on_the_card(watched: Watched) -> None:
    """The model is on its card between calls; after the cool-down the shard goes on as another part, with a ladder."""
    model = half_model()
    passes = watched.slow_down(model, HEALTHY, SLOW, after=8)
    moved: list[bool] = []
    model[0].register_forward_pre_hook(lambda module, given: moved.append(is_moved(module)))

    def encode(count: int) -> None:
        model.encode(texts(count), batch_size=2)
        assert not is_moved(model)

    for count in (60, 4):
        encode(count)
    assert len(passes) == 32
    assert moved[-2:] == [True, True]
    watched.clock.now += calls.COOL_DOWN_SECONDS
    encode(4)
    assert moved[-2:] == [False, False]
    names = list(dict.fromkeys(name.rpartition(":")[2] for name, _, _ in watched.batches()))
    assert len(names) == 2
    assert names[1] == f"{names[0]} part 2"


def test_a_model_that_cannot_be_moved_stays(watched: Watched) -> None:
    """Weights in two places, a hook of accelerate, a quantized one, one that is trained: no rung, no harm."""
    model = half_model()
    model[0].auto_model.is_quantized = True
    watched.slow_down(model, HEALTHY, SLOW, after=8)
    model.encode(texts(60), batch_size=2)
    assert not is_moved(model)
    assert {(kind, outcome) for _, kind, outcome in actions(watched)} >= {("DEMOTE_CPU", "passed_over")}


def test_a_model_that_was_moved_in_inference_mode_can_be_trained(watched: Watched) -> None:
    """Tensors that are made there could not, and nobody would know why."""
    import torch

    model = half_model()
    watched.slow_down(model, HEALTHY, SLOW, after=8)
    with torch.inference_mode():
        model.encode(texts(60), batch_size=2)
    assert ("DEMOTE_CPU", "applied") in [(kind, outcome) for _, kind, outcome in actions(watched)]
    assert not any(parameter.is_inference() for parameter in model.parameters())


def test_a_model_is_not_moved_under_a_pass_of_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that crawls may take an hour: it would go on on weights that are elsewhere."""
    from helix_crawl_otel.instrument.moves import MovableModel

    monkeypatch.setattr("helix_crawl_otel.watch.shard.BATCHES_SECONDS", 0.01)
    model, entered, over = half_model(), Event(), Event()
    movable = MovableModel(model, lambda: 0.0, 1.0)

    def run() -> None:
        with movable.passing():
            entered.set()
            over.wait(60)

    thread = Thread(target=run)
    thread.start()
    entered.wait(60)
    with pytest.raises(TimeoutError, match="a pass of another thread has not ended within"):
        movable.move_to_cpu()
    assert not is_moved(model)
    assert not movable.is_cooling
    over.set()
    thread.join(60)
    movable.move_to_cpu()
    assert is_moved(model)


def test_a_trained_model_is_not_moved() -> None:
    """Its gradients and its optimizer would stay behind."""
    from helix_crawl_otel.instrument.moves import MovableModel

    model = sentence_model()
    movable = MovableModel(model, lambda: 0.0, 1.0)
    assert movable.can_move()
    next(model.parameters()).sum().backward()
    assert not movable.can_move()
