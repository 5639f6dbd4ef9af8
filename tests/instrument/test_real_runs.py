"""The job of `tests/instrument/job.py`, real processes: with a crawl, before and after."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points

import pytest

from tests.build.rig import COMMAND, Done, Rig

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

RUN = [*COMMAND, "run", "--no-metrics", "--json", "--window", "4", "--clock-rate", "25"]

LIBRARIES = {
    "sentence": "sentence_transformers",
    "sparse": "sentence_transformers",
    "cross": "sentence_transformers",
    "langchain": "langchain_huggingface",
    "llama_index": "llama_index.embeddings.huggingface",
    "haystack": "haystack_integrations.components.embedders.sentence_transformers",
    "flag_embedding": "FlagEmbedding",
}
"""And the module that has to be there."""

ON_CPU = ["DETECT", "EMPTY_CACHE", "DEMOTE_CPU"]


def need(module: str) -> None:
    """Leave the test out where a library is not there, or does not go with those that it is installed beside."""
    try:
        import_module(module)
    except ImportError as error:
        pytest.skip(f"{module} cannot be imported: {error}")


def job(rig: Rig, library: str, calls: int, passes: int) -> list[str]:
    """The command of the job."""
    need(LIBRARIES[library])
    return [sys.executable, "-m", "tests.instrument.job", library, str(rig.folder / "done"), str(calls), str(passes)]


def lines(rig: Rig) -> list[list[int]]:
    """What the job has written: number, results and slow passes of each call, or of each rank."""
    return [[int(part) for part in line.split()] for line in (rig.folder / "done").read_text().splitlines()]


def applied(done: Done, shard: str = "") -> list[str]:
    """The steps of the ladder that were taken, of each shard or of those so called."""
    ours = (event for event in done.of("action") if shard in event["shard"])
    return [event["action"] for event in ours if event["outcome"] == "applied"]


@pytest.mark.parametrize("library", LIBRARIES)
def test_one_long_call_is_finished_on_the_cpu(rig: Rig, library: str) -> None:
    """In the process it was begun in: a job that does not resume is never ended. Alone, 48 of 60 passes are slow."""
    done = rig.run([*RUN, "--instrument", "--", *job(rig, library, 1, 60)])
    assert done.code == 0, done.errors
    ((number, results, slow),) = lines(rig)
    assert (number, results) == (0, 120)
    assert 0 < slow < 24
    assert applied(done) == ON_CPU
    assert len(done.of("worker_started")) == 1


@pytest.mark.parametrize("library", LIBRARIES)
def test_without_us_the_job_is_what_it_was(rig: Rig, library: str) -> None:
    """The same job, alone: nothing helps it."""
    assert rig.run(job(rig, library, 2, 10)).code == 0
    assert lines(rig) == [[0, 20, 0], [1, 20, 8]]


def test_a_job_of_many_calls_is_recycled_between_two(rig: Rig) -> None:
    """And goes on behind the last line; no call is missing, none is there twice."""
    done = rig.run([*RUN, "--instrument", "--resumable", "--", *job(rig, "sentence", 12, 4)])
    assert done.code == 0, done.errors
    assert [line[:2] for line in lines(rig)] == [[number, 8] for number in range(12)]
    assert applied(done)[:3] == ["DETECT", "EMPTY_CACHE", "RECYCLE"]
    assert next(event["code"] for event in done.of("worker_ended")) == 75


NOTEBOOK = """
import sys, nbformat
from nbclient import NotebookClient
cells = [nbformat.v4.new_code_cell(text) for text in (
    "from tests.instrument import job, models\\nmodel = models.sentence_model(); slow = job.lay_card_over(model)",
    "vectors = model.encode(models.texts(120), batch_size=2)",
    f"open({sys.argv[1]!r}, 'w').write(f'0 {{len(vectors)}} {{len(slow)}}')",
)]
NotebookClient(nbformat.v4.new_notebook(cells=cells), timeout=120, kernel_name="python3").execute()
"""


def notebook(rig: Rig) -> list[str]:
    """The command that runs a notebook, as many do it."""
    for needed in ("nbclient", "ipykernel"):
        need(needed)
    return [sys.executable, "-c", NOTEBOOK, str(rig.folder / "done")]


def test_a_notebook(rig: Rig) -> None:
    """The shard is the cell that encodes; its kernel, a child of what was started, is watched."""
    done = rig.run([*RUN, "--instrument", "--", *notebook(rig)])
    assert done.code == 0, done.errors
    ((_, results, slow),) = lines(rig)
    assert results == 120
    assert 0 < slow < 24
    assert applied(done, "cell ") == ON_CPU


def ranks(rig: Rig) -> list[str]:
    """The command that starts two of them."""
    return [sys.executable, *RANKS, str(rig.folder / "done")]


RANKS = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m", "tests.instrument.ranks"]


def test_ranks_of_torchrun(rig: Rig) -> None:
    """Each is a shard on a device of its own, and has a ladder."""
    done = rig.run([*RUN, "--instrument", "--", *ranks(rig)])
    assert done.code == 0, done.errors
    assert [line[:2] for line in lines(rig)] == [[0, 120], [1, 120]]
    assert all(0 < slow < 24 for _, _, slow in lines(rig))
    for rank in (0, 1):
        assert applied(done, f" rank {rank}") == ON_CPU
    devices = {event["shard"][-6:]: event["device"] for event in done.of("shard_started") if "ranks" in event["shard"]}
    assert devices == {"rank 0": "cuda:0", "rank 1": "cuda:1"}


ALONE = [sys.executable, "-c", "from opentelemetry.instrumentation.auto_instrumentation import run; run()"]
"""As `opentelemetry-instrument`, which need not be in a folder that is searched."""


@pytest.mark.parametrize("command", [notebook, ranks])
def test_under_opentelemetry_instrument(rig: Rig, command: Callable[[Rig], list[str]]) -> None:
    """Without a supervisor, on its own clock, too slow for the last rung: each process of the job watches itself."""
    if not entry_points(group="opentelemetry_instrumentor", name="helix_crawl"):
        pytest.skip("the package is not installed, and has no entry point")
    quiet = [part for what in ("traces", "metrics", "logs") for part in (f"--{what}_exporter", "none")]
    done = rig.run([*ALONE, *quiet, *command(rig)], HELIX_BFM_CRAWL_WINDOW="4")
    assert done.code == 0, done.errors
    assert [line[:2] for line in lines(rig)] == [[at, 120] for at in range(1 + (command is ranks))]
    if command is ranks:  # what a kernel logs is in its notebook
        assert done.errors.count("crawl detected") == 2


@pytest.mark.parametrize("calls", ["1", "none"])
def test_accelerate_launch_of_one_process_keeps_its_exit_code(rig: Rig, calls: str) -> None:
    """Watched, it ends as it does without us."""
    need("accelerate")
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "--num_machines", "1"]
    told = ["--mixed_precision", "no", "--dynamo_backend", "no", "-m", "tests.instrument.job", "sentence"]
    done = rig.run([*RUN, "--instrument", "--", sys.executable, *launch, *told, str(rig.folder / "done"), calls, "60"])
    assert done.code == done.of("worker_ended")[-1]["code"] == (calls == "none"), done.errors
    if calls == "1":
        assert applied(done) == ON_CPU
