"""Promises of the look before a build: it writes nothing, its filters are kept, and its time is a measured one."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest

from helix_crawl_otel.build import outlook
from helix_crawl_otel.build.outlook import earlier_rate, settle_filters
from helix_crawl_otel.cli import main
from helix_crawl_otel.corpus.filters import Filters
from helix_crawl_otel.shards.build_record import BuildRecord
from tests.build.rig import Rig, prose, write_tree


def run_of(path: Path, genes: int, *, encoder: str = "minilm", host: str | None = None, batches: int = 4) -> None:
    """Append a run of a batch a second."""
    lines = [{"event": "run", "version": 1, "t": 0.0, "encoder": encoder, "host": host or platform.node()}]
    for n in range(batches):
        lines.append({"event": "batch", "t": n + 1.0, "shard": "a", "device": "cpu", "genes": genes, "seconds": 1.0})
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


@pytest.mark.parametrize("first", [None, 1, 100, 1000, 20_000])
def test_the_rate_is_that_of_the_last_run_with_this_model_on_this_machine(
    first: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never of another, nor of one that hardly began; a torn line is no matter, nor how much is read at first."""
    if first is not None:
        monkeypatch.setattr(outlook, "LAST_BYTES", first)
    path = tmp_path / "timeline.jsonl"
    assert earlier_rate(path, "minilm") is None
    run_of(path, 5)
    run_of(path, 10)
    run_of(path, 99, encoder="other")
    run_of(path, 99, host="elsewhere")
    run_of(path, 99, batches=1)
    with path.open("a", encoding="utf-8") as file:
        file.write('{"event":"batch","t":')
    found = earlier_rate(path, "minilm")
    assert found is not None
    assert (found.genes_per_second, found.device) == (10.0, "cpu")
    assert earlier_rate(path, "nobody's") is None
    assert found.genes == 40


def test_the_rate_counts_work_where_the_newest_batches_are_the_shortest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """100 units a second; a gene costs 18 in the mean, 10 in the batches that are looked at: 5.5, not 10 genes/s."""
    path = tmp_path / "timeline.jsonl"
    run_of(path, 10, batches=0)
    with path.open("a", encoding="utf-8") as file:
        for n in range(200):
            genes = 5 if n < 180 else 10
            line = {"event": "batch", "t": n + 1.0, "device": "cpu", "genes": genes, "work": 100, "seconds": 1.0}
            file.write(json.dumps(line) + "\n")
    monkeypatch.setattr(outlook, "MOST_BATCHES", 20)
    found = earlier_rate(path, "minilm")
    assert found is not None
    assert found.genes_per_second == pytest.approx(1100 / 200, rel=0.05)


def test_filters_hold_until_others_are_named() -> None:
    """Named ones replace all of the last time, and that is said."""
    record = BuildRecord({}, {}, filters=Filters(("*.log",)).to_json())
    kept, told = settle_filters(None, record)
    assert kept == Filters(("*.log",))
    assert "--exclude '*.log', as the last time" in told[0]
    other, told = settle_filters(Filters((), ("*",)), record)
    assert other == Filters((), ("*",))
    assert "the last time it was --exclude '*.log'" in told[0]
    assert settle_filters(Filters(("*.log",)), record) == (Filters(("*.log",)), [])
    assert settle_filters(None, None) == (Filters(), [])


def test_a_dry_run_says_what_there_is_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither beside the tree nor in it, for people and for scripts."""
    write_tree(tmp_path / "src", {"a/x.md": prose(1, 5), "a/x.log": "x", "b/y.md": "text", "c.log": "x"})
    before = sorted(tmp_path.rglob("*"))
    assert main(["build", str(tmp_path / "src"), "--dry-run", "--exclude", "*.log", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["files"], told["shards"], told["seconds"], told["complete"]) == (2, 2, None, 0)
    assert told["left_out"] == [{"why": "--exclude *.log", "files": 2, "folders": 0}]
    assert [row["shard"] for row in told["by_shard"]] == ["a", "b"]
    assert main(["build", str(tmp_path / "src"), "--dry-run"]) == 0
    assert "4 files in 3 shards" in capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--exclude", ""), "--exclude is ''; accepted: a pattern as in a .gitignore"),
        (("--include", "!"), "--include is '!'"),
        (("--max-file-size", "much"), "--max-file-size is 'much'; accepted: a size such as 500kB"),
    ],
)
def test_a_filter_that_is_none_is_refused(
    words: tuple[str, ...], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is looked at."""
    assert main(["build", str(tmp_path), "--dry-run", *words]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.slow
def test_filters_from_the_first_build_to_prune(rig: Rig) -> None:
    """They are kept; one that changes nothing has nothing read again; what is left out later stays until --prune."""
    rig.write({"a/x.md": prose(1, 4), "a/x.log": prose(2, 4), "b/y.md": prose(3, 4)})
    first = rig.build("--exclude", "*.log")
    assert first.code == 0, first.errors
    assert first.summary["left_out"] == [{"why": "--exclude *.log", "files": 1, "folders": 0}]
    assert [event["pending"] for event in first.of("tree_looked")] == [
        sum(event["pending"] for event in first.of("shard_counted"))
    ]
    again = rig.build()
    assert (again.code, again.summary["encoded"], again.of("ingested")) == (0, 0, [])
    same = rig.build("--exclude", "*.log", "--exclude", "*.tmp")
    assert same.of("ingested") == []
    more = rig.build("--include", "*")
    assert [event["shard"] for event in more.of("ingested")] == ["a"]
    genes = rig.verify()["genes"]
    less = rig.build("--exclude", "*.log")
    told = "shard a: 1 source is there no longer, or is left out now; the genes stay until --prune"
    assert told in [event["text"] for event in less.of("note")]
    assert rig.build("--exclude", "b/").code == 0
    assert rig.verify()["genes"] == genes
    assert rig.build("--prune").code == 0
    assert rig.verify()["genes"] < genes
