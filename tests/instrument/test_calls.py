"""What is seen of calls whose code knows nothing of us, with the real libraries."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from helix_crawl_otel import shard
from helix_crawl_otel.instrument import calls, patches
from helix_crawl_otel.instrument.shard_names import _place
from tests.instrument.conftest import Watched
from tests.instrument.models import cross_model, sentence_model, sparse_model, texts


def padded(model: Any, given: list[str], size: int) -> list[int]:
    """Tokens with padding of each pass, the longest texts first, as the libraries batch them."""
    ordered = sorted(given, key=lambda text: -len(text))
    parts = [ordered[at : at + size] for at in range(0, len(ordered), size)]
    return [int(model.tokenizer(part, padding=True, return_tensors="pt")["input_ids"].numel()) for part in parts]


def test_each_pass_of_one_call_is_a_batch(watched: Watched) -> None:
    """Genes are its rows, work its padded tokens; the shard is the line that calls, through any library."""
    model, given = sentence_model(), texts(20)
    for _ in range(2):
        model.encode(given, batch_size=8)
    model.encode_query(given[:3])
    model.encode_document(given[:2])
    seen = watched.batches()
    assert [genes for _, genes, _ in seen] == [8, 8, 4, 8, 8, 4, 3, 2]
    assert [work for _, _, work in seen[:3]] == padded(model, given, 8)
    names = list(dict.fromkeys(name for name, _, _ in seen))
    assert len(names) == 3
    assert all(name.rpartition(":")[0].endswith("tests/instrument/test_calls.py") for name in names)


@pytest.mark.parametrize(
    ("make", "call"),
    [
        (sparse_model, lambda model: model.encode(texts(10), batch_size=4)),
        (cross_model, lambda model: model.predict([(a, a) for a in texts(10)], batch_size=4)),
        (cross_model, lambda model: model.rank("w1 w2", texts(10), batch_size=4)),
    ],
    ids=["SparseEncoder.encode", "CrossEncoder.predict", "CrossEncoder.rank"],
)
def test_other_models_of_sentence_transformers(watched: Watched, make: Any, call: Any) -> None:
    """Each pass, once, though one method calls the other."""
    call(make())
    seen = watched.batches()
    assert [genes for _, genes, _ in seen] == [4, 4, 2]
    assert all(work >= 3 * genes for _, genes, work in seen)


def test_a_block_names_the_shard_and_the_variable_does(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block wins over HELIX_CRAWL_SHARD, and each rank of a job that has several is told apart."""
    model = sentence_model()
    monkeypatch.setenv("HELIX_CRAWL_SHARD", "from the shell")
    model.encode(texts(2))
    with shard("notes"):
        model.encode(texts(2))
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    model.encode(texts(2))
    assert [name for name, _, _ in watched.batches()] == ["from the shell", "notes", "from the shell rank 1"]


def test_a_name_of_a_shard_is_a_string() -> None:
    """And says something."""
    with pytest.raises(ValueError, match="shard name is ''; accepted: a string that is not empty"), shard(""):
        pass


def test_two_models_at_one_line_are_two_shards_and_one_loaded_anew_is_not(watched: Watched) -> None:
    """Passes of another model take another time; the same one is the same, however often it is loaded."""
    first, other, again = sentence_model(), cross_model(), sentence_model()
    for encode, given in ((first.encode, "w1"), (other.predict, ("w1", "w2")), (again.encode, "w1")):
        encode([given])
    names = [name for name, _, _ in watched.batches()]
    assert names[::2] == [names[0]] * 2
    assert names[1] in {f"{names[0]} {kind}" for kind in ("CrossEncoder", "BertForSequenceClassification")}


def test_results_are_the_same_bytes_and_uninstrument_gives_back_the_same_attributes(watched: Watched) -> None:
    """Nothing that watches changes what is computed, or stays behind."""
    from sentence_transformers import CrossEncoder, SentenceTransformer, SparseEncoder

    model, pairs, given = sentence_model(), [(a, "w3 w4") for a in texts(12)], texts(20)
    cross, sparse = cross_model(), sparse_model()

    def results() -> list[bytes]:
        tensors = model.encode(given, batch_size=8, convert_to_tensor=True)
        return [
            model.encode(given, batch_size=8, normalize_embeddings=True).tobytes(),
            tensors.numpy().tobytes(),
            cross.predict(pairs).tobytes(),
            repr(cross.rank("w1 w2", given, batch_size=4)).encode(),
            sparse.encode(given).to_dense().numpy().tobytes(),
        ]

    ours = [dict(vars(owner)) for owner in (SentenceTransformer, SparseEncoder, CrossEncoder)]
    with_us = results()
    assert watched.batches()
    watched.instrumentor.uninstrument()
    theirs = [dict(vars(owner)) for owner in (SentenceTransformer, SparseEncoder, CrossEncoder)]
    assert results() == with_us
    laid = [set(mine) - set(other) for mine, other in zip(ours, theirs, strict=True)]
    assert set().union(*laid) in ({"__call__"}, {"forward"})  # as the version of the library has it
    for own in theirs:
        assert not any(type(value).__name__ == "FunctionWrapper" for value in own.values())
    watched.instrumentor.instrument(watch=watched.watch)
    watched.instrumentor.uninstrument()
    again = [dict(vars(owner)) for owner in (SentenceTransformer, SparseEncoder, CrossEncoder)]
    for first, second in zip(theirs, again, strict=True):
        assert {name: value for name, value in second.items() if first.get(name) is not value} == {}


def test_what_somebody_else_has_laid_over_ours_stays(watched: Watched) -> None:
    """Another instrumentor has wrapped the method since: its wrapper is not thrown away, and calls the library."""
    from sentence_transformers import SentenceTransformer
    from wrapt import FunctionWrapper

    seen, model = [], sentence_model()
    below = vars(SentenceTransformer)["encode"]

    def theirs(step: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        seen.append(instance)
        return step(*args, **kwargs)

    owner: Any = SentenceTransformer
    owner.encode = FunctionWrapper(below, theirs)
    try:
        model.encode(texts(2))
        watched.instrumentor.uninstrument()
        model.encode(texts(2))
    finally:
        owner.encode = below.__wrapped__
    assert len(seen) == 2
    assert len(watched.batches()) == 1
    watched.instrumentor.instrument(watch=watched.watch)
    assert type(vars(SentenceTransformer)["encode"]) is FunctionWrapper  # theirs took ours away with it: laid anew


def test_what_is_uninstrumented_in_a_call_is_taken_away_when_it_ends(watched: Watched) -> None:
    """Its model may be on the CPU, and what it is given on the card: its passes have to follow it to the end."""
    from sentence_transformers import SentenceTransformer

    model, given = sentence_model(), texts(8)
    plain = model.encode(given, batch_size=2).tobytes()
    calls_seen: list[bool] = []

    def uninstrument(*given: Any) -> None:
        if watched.instrumentor.is_instrumented_by_opentelemetry:
            watched.instrumentor.uninstrument()
        calls_seen.append(calls.current_call() is not None)

    model[0].register_forward_pre_hook(uninstrument)
    assert model.encode(given, batch_size=2).tobytes() == plain
    assert calls_seen == [True] * 4
    assert not any(type(value).__name__ == "FunctionWrapper" for value in vars(SentenceTransformer).values())


MADE = """
import torch
class Model(torch.nn.Linear):
    def forward(self, input_ids):
        return super().forward(input_ids)
class Encoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.model = Model(2, 2)
    def forward(self, given):
        return self.model(given["input_ids"])
    def encode(self, rows):
        return {pass_}
class SentenceTransformer(Encoder):
    pass
class CrossEncoder(Encoder):
    def predict(self, rows):
        return {predict_}
"""


@pytest.mark.parametrize(
    ("version", "pass_", "predict_"),
    [
        ("3.4.1", 'self.forward({"input_ids": rows})', "self.model(input_ids=rows)"),
        ("5.3.0", 'self.forward({"input_ids": rows})', "self.model(input_ids=rows)"),
        ("5.4.0", 'self.forward({"input_ids": rows})', 'self.forward({"input_ids": rows})'),
        ("5.7.0.dev0", 'self({"input_ids": rows})', 'self({"input_ids": rows})'),
        ("", 'self({"input_ids": rows})', 'self({"input_ids": rows})'),
    ],
)
def test_versions_whose_passes_go_another_way(watched: Watched, version: str, pass_: str, predict_: str) -> None:
    """A pass is seen once, in whatever way a version of sentence-transformers calls its model; stand-ins of them."""
    import torch

    made = ModuleType("sentence_transformers")
    exec(MADE.format(pass_=pass_, predict_=predict_), made.__dict__)
    made.__dict__["__version__"] = version
    before = {name: dict(vars(made.__dict__[name])) for name in ("SentenceTransformer", "CrossEncoder", "Model")}
    patches._imported(made)
    made.__dict__["SentenceTransformer"]().encode(torch.ones(3, 2))
    made.__dict__["CrossEncoder"]().predict(torch.ones(5, 2))
    assert [genes for _, genes, _ in watched.batches()] == [3, 5]
    watched.instrumentor.uninstrument()
    assert before == {name: dict(vars(made.__dict__[name])) for name in before}


def test_a_fault_of_ours_is_said_once_and_the_call_goes_on(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In a call and in a pass."""
    model, given = sentence_model(), texts(12)
    expected = model.encode(given, batch_size=4).tobytes()

    def fail(*given: object, **named: object) -> None:
        raise ArithmeticError("on purpose")

    monkeypatch.setattr(calls, "_told", set())
    monkeypatch.setattr(calls, "size_of", fail)
    assert model.encode(given, batch_size=4).tobytes() == expected
    monkeypatch.setattr(calls, "shard_name", fail)
    assert model.encode(given, batch_size=4).tobytes() == expected
    assert model.encode(given, batch_size=4).tobytes() == expected
    told = [record.getMessage() for record in caplog.records if "on purpose" in record.getMessage()]
    assert [line.split(" while a ")[1].split(" is ")[0] for line in told] == ["pass", "call"]


def test_an_exception_of_the_job_passes_and_its_pass_is_not_counted(watched: Watched) -> None:
    """And the next call is watched again."""
    model = sentence_model()
    handle = model[0].register_forward_pre_hook(lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.encode(texts(2))
    handle.remove()
    model.encode(texts(3))
    assert [genes for _, genes, _ in watched.batches()] == [3]


def test_a_driver_that_tells_of_its_batches_itself_is_not_told_of_twice(watched: Watched) -> None:
    """What it encodes inside of its own batch is that batch."""
    model = sentence_model()
    with watched.watch.shard("own", device="cuda:0") as own, own.batch(2, 10):
        model.encode(texts(2))
    assert watched.batches() == [("own", 2, 10)]


def test_calls_of_several_threads(watched: Watched) -> None:
    """Each has its own passes; none is lost."""
    model, results = sentence_model(), {}

    def encode(number: int) -> None:
        results[number] = model.encode(texts(9), batch_size=3).tobytes()

    threads = [threading.Thread(target=encode, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(set(results.values())) == 1
    assert [genes for _, genes, _ in watched.batches()] == [3] * 12


@pytest.mark.parametrize(
    ("file", "place"),
    [
        ("/tmp/ipykernel_4242/1234567.py", "cell 1234567"),
        ("<ipython-input-3-0123456789ab>", "cell 3"),
        ("<stdin>", "stdin"),
        ("<string>", "string"),
        ("<frozen runpy>", ""),
        ("/usr/lib/python3/dist-packages/library/encode.py", ""),
        (str(Path.cwd() / "job.pyz" / "__main__.py"), "job.pyz/__main__.py"),
        (threading.__file__, ""),
        (pytest.__file__, ""),
        (calls.__file__, ""),
        (str(Path.cwd() / "jobs" / "embed.py"), "jobs/embed.py"),
        (str(Path(Path.cwd().anchor) / "elsewhere" / "embed.py"), "embed.py"),
    ],
)
def test_which_file_is_the_job(file: str, place: str) -> None:
    """Neither the standard library, nor what is installed, nor ours; a cell of a notebook is."""
    assert _place(file) == place


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_goes_on(watched: Watched) -> None:
    """Also from inside of a call, as a library may fork there; the parent's timeline is the parent's."""
    model = sentence_model()
    import torch

    def fork(*given: Any) -> None:
        handle.remove()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                torch.set_num_threads(1)  # those that the parent has used are not there: OpenMP would wait for them
                code = 0 if len(model.encode(texts(3))) == 3 else 1
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0

    handle = model[0].register_forward_pre_hook(fork)
    model.encode(texts(4), batch_size=2)
    assert [genes for _, genes, _ in watched.batches()] == [2, 2]
