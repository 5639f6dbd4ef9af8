"""What a run is called, and how one ends that no supervisor tells of."""

from __future__ import annotations

import os

import pytest
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from helix_crawl_otel.actions import PauseRequested
from helix_crawl_otel.otel.resource import instance_id, run_resource
from helix_crawl_otel.otel.run_gauges import job_name
from tests.otel.fresh import run_fresh
from tests.watch.rig import Rig, collected, make_provider


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["python", "my_job.py", "--input", "notes"], "my_job.py"),
        (["/usr/bin/python3.11", "-u", "-X", "dev", "jobs/embed.py"], "embed.py"),
        (["python", "-m", "jobs.embed", "--all"], "jobs.embed"),
        (["python3", "-mjobs.embed"], "jobs.embed"),
        (["python", "-c", "print()"], "python"),
        (["python"], "python"),
        (["./embed.sh", "-m", "x"], "embed.sh"),
    ],
)
def test_a_job_is_called_by_what_it_runs(monkeypatch: pytest.MonkeyPatch, words: list[str], name: str) -> None:
    """Not by its Python, which all have; `OTEL_SERVICE_NAME` wins."""
    monkeypatch.delenv("OTEL_SERVICE_NAME", raising=False)
    monkeypatch.delenv("OTEL_RESOURCE_ATTRIBUTES", raising=False)
    assert job_name(words) == name
    monkeypatch.setenv("OTEL_SERVICE_NAME", "night")
    assert job_name(words) == "night"


@pytest.mark.parametrize("said", ["", "service.instance.id=one", "service.instance.id="])
def test_the_id_of_a_start_is_that_of_the_resource(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    """So that both routes, and the run's own series, name one thing by one name."""
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", said)
    assert instance_id() == run_resource().attributes["service.instance.id"] != ""
    assert (instance_id() == "one") is (said == "service.instance.id=one")


def states(reader: InMemoryMetricReader) -> list[str]:
    """Of the run that this process's watches are in: those that are 1."""
    return [labels[2] for labels, value in collected(reader)["helix_dense_run_state"].items() if value]


@pytest.mark.parametrize(
    ("error", "state"),
    [(None, "done"), (PauseRequested(None), "paused"), (KeyboardInterrupt(), "paused"), (ValueError(), "failed")],
)
def test_an_embedded_job_ends_as_its_block_does(error: BaseException | None, state: str) -> None:
    """Its app goes on serving: that it is over is all that is said of it then."""
    provider, reader = make_provider()
    rig = Rig(provider=provider)

    def job() -> None:
        with rig.watch:
            assert states(reader) == ["state=running"]
            if error is not None:
                raise error

    if error is None:
        job()
    else:
        with pytest.raises(type(error)):
            job()
    assert states(reader) == [f"state={state}"]
    rig.watch.close()
    assert states(reader) == [f"state={state}"], "a second close says nothing new"


def test_a_process_runs_while_one_of_its_watches_does() -> None:
    """Two in two threads, say; and another one after both."""
    provider, reader = make_provider()
    first, second = (Rig(provider=provider).watch for _ in range(2))
    first.close()
    assert states(reader) == ["state=running"]
    second.close()
    assert states(reader) == ["state=done"]
    third = Rig(provider=provider).watch
    assert states(reader) == ["state=running"]
    third.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_a_forked_child_is_another_start() -> None:
    """With an id of its own, which it can find although the provider was made before anything else was imported."""
    out = run_fresh(
        """
        import os
        from tests.watch.rig import collected, make_provider
        provider, reader = make_provider()
        from helix_crawl_otel import CrawlWatch, MemoryReading

        def shown():
            [labels] = [labels for labels, value in collected(reader)["helix_dense_run_state"].items() if value]
            return labels[1:]

        with CrawlWatch(meter_provider=provider, memory=lambda: MemoryReading(1, 2), tick_seconds=None) as watch:
            before = shown()
            pid = os.fork()
            if pid == 0:
                mine = shown()
                os._exit(0 if mine[0] != before[0] and mine[1] == before[1] == "state=running" else 1)
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        """,
        warnings="ignore:This process:DeprecationWarning",
    )
    assert out == "0\n"
