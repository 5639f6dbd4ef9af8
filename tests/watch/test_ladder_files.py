"""Rung and baseline of a shard stand in its own folder, and are found again whatever else a run has, in what order."""

from __future__ import annotations

import json
import logging
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from helix_crawl_otel.policy.costs import CardCosts
from helix_crawl_otel.policy.ladder import Ladder
from helix_crawl_otel.policy.model import ActionKind
from helix_crawl_otel.policy.state import PolicyState, ShardState, dump_durable
from helix_crawl_otel.statefile import LadderFiles, StateFile
from tests.watch.rig import Rig

FOLDERS = ("s1", "s2", "s3")


def ladder(root: Path, folder: str) -> Path:
    """The file of a folder."""
    return root / folder / "ladder.json"


def files(root: Path, *folders: str) -> LadderFiles:
    """Those of a run with a shard `src` in each of these folders; the first is its home."""
    places = {f"{folder}/src": (ladder(root, folder), "src") for folder in folders}
    return LadderFiles(ladder(root, folders[0]), places)


def rungs(state: PolicyState) -> dict[str, int]:
    """By name."""
    return {name: shard.ladder.rung for name, shard in state.shards.items()}


def rungs_in(path: Path) -> dict[str, int]:
    """Of a file, as it stands there."""
    content: dict[str, Any] = json.loads(path.read_text())
    return {name: shard["rung"] for name, shard in content["shards"].items()}


def with_rungs(rungs: dict[str, int]) -> PolicyState:
    """Shards that have come so far."""
    shards = {name: ShardState(is_open=False, ladder=Ladder(rung=rung)) for name, rung in rungs.items()}
    return PolicyState(shards=shards)


@pytest.mark.parametrize("order", list(permutations(FOLDERS)))
def test_the_order_of_the_folders_does_not_matter(tmp_path: Path, order: tuple[str, ...]) -> None:
    """Each shard finds its own rung, and no other one's: alone, too."""
    state = files(tmp_path, *FOLDERS).load("")
    state.shards |= with_rungs({"s1/src": 0, "s2/src": 3, "s3/src": 1}).shards
    files(tmp_path, *FOLDERS).keep(state)()
    assert [rungs_in(ladder(tmp_path, folder)) for folder in FOLDERS] == [{"src": 0}, {"src": 3}, {"src": 1}]
    again = files(tmp_path, *order)
    loaded = again.load("")
    assert rungs(loaded) == {"s1/src": 0, "s2/src": 3, "s3/src": 1}
    again.keep(loaded)()
    alone = LadderFiles(ladder(tmp_path, "s2"), {"src": (ladder(tmp_path, "s2"), "src")}).load("")
    assert rungs(alone) == {"src": 3}


def test_what_a_run_has_no_shard_of_stays_where_it_was(tmp_path: Path) -> None:
    """Two shards of one name, in two folders of which one run names other shards."""
    for folder, rung in (("s1", 1), ("s2", 2)):
        StateFile(ladder(tmp_path, folder)).keep(with_rungs({"other": rung, "src": 0}))()
    run = files(tmp_path, "s1", "s2")
    state = run.load("")
    state.shards["s2/src"].ladder.rung = 3
    run.keep(state)()
    assert rungs_in(ladder(tmp_path, "s1")) == {"other": 1, "src": 0}
    assert rungs_in(ladder(tmp_path, "s2")) == {"other": 2, "src": 3}


def test_the_file_of_an_earlier_version_is_read_once(tmp_path: Path) -> None:
    """The folder that was named first kept all, the others by their whole path; a rung is never given back."""
    StateFile(ladder(tmp_path, "s1")).keep(with_rungs({"src": 1, "s2/src": 3, "s3/src": 2, "gone/src": 2}))()
    StateFile(ladder(tmp_path, "s3")).keep(with_rungs({"src": 3}))()
    run = files(tmp_path, *FOLDERS)
    state = run.load("")
    assert rungs(state) == {"s1/src": 1, "s2/src": 3, "s3/src": 3, "gone/src": 2}
    run.keep(state)()
    assert rungs_in(ladder(tmp_path, "s1")) == {"src": 1, "gone/src": 2}
    assert rungs_in(ladder(tmp_path, "s2")) == rungs_in(ladder(tmp_path, "s3")) == {"src": 3}


def test_one_folder_that_cannot_be_written_does_not_keep_the_others_from_it(tmp_path: Path) -> None:
    """The failure is told, and the next save tries again."""
    run = files(tmp_path, *FOLDERS)
    state = run.load("")
    state.shards |= with_rungs({"s1/src": 1, "s2/src": 2, "s3/src": 3}).shards
    (tmp_path / "s2").write_text("no folder")
    with pytest.raises(OSError, match="s2"):
        run.keep(state)()
    assert rungs_in(ladder(tmp_path, "s3")) == {"src": 3}
    (tmp_path / "s2").unlink()
    run.keep(state)()
    assert rungs_in(ladder(tmp_path, "s2")) == {"src": 2}


def test_what_one_card_does_is_known_from_every_folder(tmp_path: Path) -> None:
    """The longest history of a card counts: the runs of one command have it in each of its files."""
    StateFile(ladder(tmp_path, "s1")).keep(PolicyState())()
    content = dump_durable(PolicyState())
    content["cards"]["cards"]["cuda:0|work|"] = [{"rate": 1000.0, "genes_rate": 16.0, "work": 4000.0}]
    ladder(tmp_path, "s2").parent.mkdir()
    ladder(tmp_path, "s2").write_text(json.dumps(content))
    assert list(files(tmp_path, "s1", "s2").load("").cards.cards) == ["cuda:0|work|"]


def test_of_a_card_the_file_that_has_seen_most_crawls_knows_its_costs(tmp_path: Path) -> None:
    """Each file of a run has them; a folder that was built alone in between has seen more."""
    for folder, crawls in (("s1", 2), ("s2", 5), ("s3", 0)):
        state = with_rungs({f"{folder}/src": 0})
        state.costs = {"card": CardCosts(crawls=crawls), folder: CardCosts(tries=1)} if crawls else {}
        files(tmp_path, folder).keep(state)()
    loaded = files(tmp_path, "s1", "s2", "s3").load("")
    assert loaded.costs == {"card": CardCosts(crawls=5), "s1": CardCosts(tries=1), "s2": CardCosts(tries=1)}


# -- embedded ----------------------------------------------------------------------------------------------------------


def used_up(path: Path, *, is_spared: bool = False) -> Path:
    """A state file of an earlier process, in which the shard `a` has no rung left."""
    refused = [ActionKind.DEMOTE_CPU] if is_spared else []
    state = PolicyState(shards={"a": ShardState(is_open=False, ladder=Ladder(rung=3, refused=refused))})
    StateFile(path).keep(state)()
    return path


def test_embedded_a_shard_without_a_rung_left_begins_on_the_cpu(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Before its first batch, once, and told in one line; the next shard begins on the card."""
    driver = Rig(state=used_up(tmp_path / "state.json"))
    calls: list[str] = []
    with caplog.at_level(logging.WARNING), driver.watch.shard("a", on_demote=lambda: calls.append("a")) as shard:
        assert (calls, shard.device) == (["a"], "cpu")
        for _ in range(3):
            driver.batch(shard)
        assert (calls, shard.status().rung) == (["a"], 3)
    assert [record.getMessage() for record in caplog.records if "'a'" in record.getMessage()] == [
        "[crawl-watchdog] shard 'a' has been moved to the CPU in an earlier run, and cuda:0 is named for it; its "
        "encoder was rebuilt on the CPU before its first batch"
    ]
    with driver.watch.shard("b", on_demote=lambda: calls.append("b")) as shard:
        assert (calls, shard.device) == (["a"], "cuda:0")


def test_a_driver_that_cannot_go_there_is_told_how(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The job goes on: a library must not end one that nobody restarts."""
    driver = Rig(state=used_up(tmp_path / "state.json"))

    def fails() -> None:
        raise RuntimeError("no weights for the CPU")

    with caplog.at_level(logging.WARNING):
        with driver.watch.shard("a") as shard:
            assert shard.device == "cuda:0"
        with driver.watch.shard("a", on_demote=fails) as shard:
            assert shard.device == "cuda:0"
        with driver.watch.shard("a", device="cpu", on_demote=fails) as shard:
            assert shard.device == "cpu"
    told = [record.getMessage() for record in caplog.records if "'a'" in record.getMessage()]
    assert len(told) == 2
    assert told[0].endswith("no rung is left; give device='cpu', or on_demote=")
    assert told[1].endswith("on_demote has failed, it stays there: RuntimeError: no weights for the CPU")


def test_one_whose_demotion_was_refused_stays_on_its_card(tmp_path: Path) -> None:
    """Its rung is used up all the same."""
    driver = Rig(state=used_up(tmp_path / "state.json", is_spared=True))
    calls: list[str] = []
    with driver.watch.shard("a", on_demote=lambda: calls.append("a")) as shard:
        assert (calls, shard.device, shard.status().rung) == ([], "cuda:0", 3)
