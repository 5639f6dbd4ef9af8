"""`watch.wrap`, and what encodes through transformers."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from helix_crawl_otel import CrawlWatch, HelixCrawlCallback, PauseRequested
from tests.instrument.conftest import Watched
from tests.instrument.models import folder, sentence_model, texts

needs_accelerate = pytest.mark.skipif(find_spec("accelerate") is None, reason="the extra `trainer` is not installed")

QUIET: dict[str, Any] = {"report_to": [], "dataloader_pin_memory": False, "disable_tqdm": True, "use_cpu": True}


def test_one_model_is_watched_alone(tmp_path: Path) -> None:
    """The others of its class are not."""
    rig = Watched(tmp_path)
    rig.instrumentor.uninstrument()
    model, other = sentence_model(), sentence_model()
    assert rig.watch.wrap(model) is model
    model.encode(texts(3), batch_size=2)
    other.encode(texts(3), batch_size=2)
    assert [genes for _, genes, _ in rig.batches()] == [2, 1]


def test_a_class_of_the_jobs_own_is_watched_in_its_own_methods(tmp_path: Path) -> None:
    """Which need not call those of the library's."""
    from sentence_transformers import SentenceTransformer

    base: Any = SentenceTransformer

    class Own(base):
        def encode(self, given: Any, **more: Any) -> Any:
            tokens = (self.preprocess if hasattr(self, "preprocess") else self.tokenize)(given)
            return self(tokens)["sentence_embedding"].detach().numpy()

    rig = Watched(tmp_path)
    rig.instrumentor.uninstrument()
    model = rig.watch.wrap(Own(modules=list(sentence_model().children()), device="cpu"))
    model.encode(texts(3))
    assert [genes for _, genes, _ in rig.batches()] == [3]


@pytest.mark.parametrize(("given", "called"), [({}, "dict"), (None, "NoneType"), (CrawlWatch, "the class CrawlWatch")])
def test_what_cannot_be_wrapped_is_named(given: object, called: str) -> None:
    """With what can, each once."""
    accepted = "SentenceTransformer, SparseEncoder, MultiVectorEncoder, CrossEncoder, M3Embedder, Pipeline, Trainer"
    with CrawlWatch(tick_seconds=None) as watch, pytest.raises(ValueError, match=r"^model is ") as raised:
        watch.wrap(given)
    assert str(raised.value) == f"model is {called}; accepted: an instance of one of {accepted}"


def pipe() -> Any:
    """A pipeline that extracts features."""
    from transformers import pipeline

    return pipeline("feature-extraction", model=str(folder()), device="cpu", batch_size=2)


def test_a_pipeline_by_step(watched: Watched) -> None:
    """A list is one call of several passes; of what is fetched one by one each pass is a call. Results are the same."""
    made = pipe()
    seen = made(texts(4)), list(made(text for text in texts(2)))
    assert [genes for _, genes, _ in watched.batches()] == [2, 2, 2]
    watched.instrumentor.uninstrument()
    assert (made(texts(4)), list(made(text for text in texts(2)))) == seen


class Training:
    """A Trainer of six steps whose card crawls from one on, in the first process only.

    Args:
        rig: What watches.
        crawls_after: The first slow step, `None` for none.
    """

    def __init__(self, rig: Watched, crawls_after: int | None = None) -> None:
        from transformers import AutoModelForSequenceClassification, Trainer, TrainerCallback, TrainingArguments

        steps: list[int] = []

        class Slow(TrainerCallback):
            def on_step_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
                steps.append(state.global_step)

        class Crawling(Trainer):
            def training_step(self, *given: Any, **more: Any) -> Any:
                is_slow = crawls_after is not None and len(steps) > crawls_after
                rig.fraction = 0.99 if is_slow else 0.5
                for _ in range(7 if is_slow else 1):
                    rig.clock.now += 4.0
                    rig.watch.tick()
                return super().training_step(*given, **more)

        self.steps = steps  # what `global_step` was before each
        self.folder = rig.path.parent
        rows = [{"input_ids": [2, 7 + n % 30, 9, 3], "labels": n % 2} for n in range(60)]
        arguments = TrainingArguments(
            str(self.folder), per_device_train_batch_size=2, num_train_epochs=1, save_strategy="no", **QUIET
        )
        model = AutoModelForSequenceClassification.from_pretrained(folder(), num_labels=2)
        callbacks: list[Any] = [Slow(), HelixCrawlCallback(rig.watch, exit_to_recycle=True)]
        self.trainer = Crawling(model, arguments, train_dataset=rows, callbacks=callbacks)

    def run(self) -> None:
        """From the newest checkpoint on, where there is one."""
        saved = [str(path) for path in self.folder.glob("checkpoint-*")]
        self.trainer.train(resume_from_checkpoint=saved[-1] if saved else None)


@needs_accelerate
def test_a_callback_of_a_trainer(tmp_path: Path) -> None:
    """Each step is a batch, by its rows and its tokens."""
    rig = Watched(tmp_path)
    rig.instrumentor.uninstrument()
    Training(rig).run()
    assert [(genes, work) for _, genes, work in rig.batches()] == [(2, 8)] * 30


@needs_accelerate
def test_a_trainer_is_recycled_after_a_checkpoint_and_does_each_step_once(tmp_path: Path) -> None:
    """Where the process is to end, the next step saves; the next process goes on behind it."""
    first_folder, steps = tmp_path, []
    for crawls_after in (10, None):
        rig = Watched(first_folder)
        rig.instrumentor.uninstrument()
        training = Training(rig, crawls_after)
        if crawls_after is None:
            training.run()
        else:
            with pytest.raises(PauseRequested) as raised:
                training.run()
            assert raised.value.code == 75
            assert [path.name for path in tmp_path.glob("checkpoint-*")] == [f"checkpoint-{len(training.steps)}"]
        rig.close()
        steps += training.steps
    assert steps == list(range(30))
