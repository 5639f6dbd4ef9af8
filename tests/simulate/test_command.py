"""`helix-crawl simulate`: output, options, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helix_crawl_otel.cli import main
from helix_crawl_otel.formats import span
from helix_crawl_otel.simulate.families import FAMILIES
from helix_crawl_otel.simulate.policies import DEFINITIONS
from helix_crawl_otel.simulate.scenario import SCENARIOS
from helix_crawl_otel.timeline import (
    ActionEvent,
    BatchEvent,
    MemoryEvent,
    RunEvent,
    UnfinishedEvent,
    WorkerEvent,
    read_timeline,
)
from tests.simulate.results import result

KEYS = [
    "scenario",
    "policy",
    "finish_seconds",
    "ratio_to_best",
    "detect_seconds",
    "interventions",
    "false_interventions",
    "seed",
    "order",
    "peak_gib",
]
POLICIES = list(DEFINITIONS)


def simulate(*words: str) -> int:
    """Run the command."""
    return main(["simulate", *words])


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run a command that is refused, and give its one line."""
    assert simulate(*words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("helix-crawl: error: ")
    assert err.count("\n") == 1
    return err


def test_json_is_a_list_of_rows_with_the_fixed_keys(capsys: pytest.CaptureFixture[str]) -> None:
    """DESIGN.md, section 3.3: every scenario, five policies each, in this order."""
    assert simulate("--json", "--draws", "1") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["scenario"], row["policy"]) for row in rows] == [
        (scenario.name, policy) for scenario in SCENARIOS for policy in POLICIES
    ]
    for row in rows:
        assert list(row) == [*KEYS, "worst", "draws"]
        assert row["worst"] == row["draws"][0] == {key: row[key] for key in KEYS}
        assert row["finish_seconds"] is None or row["finish_seconds"] > 0
        assert (row["ratio_to_best"] is None) == (row["finish_seconds"] is None)
        assert isinstance(row["interventions"], int)
        assert (row["false_interventions"] is None) == (row["policy"] == "best")
        if row["policy"] in ("none", "release", "best"):
            assert row["detect_seconds"] is None


def test_an_endless_run_is_null_in_json_and_thirty_days_in_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    """Given up after 30 days: no time, no ratio; nobody takes the model for a measurement."""
    assert simulate("endless-batch", "--json", "--draws", "1") == 0
    none = json.loads(capsys.readouterr().out)[0]
    assert (none["policy"], none["finish_seconds"], none["ratio_to_best"]) == ("none", None, None)
    assert simulate("endless-batch", "--draws", "1") == 0
    out = capsys.readouterr().out
    assert "\nendless-batch " in out
    assert "> 30 d" in out
    assert "A model in virtual time, not a measurement." in out


def test_list_says_what_each_scenario_models(capsys: pytest.CaptureFixture[str]) -> None:
    """One line each."""
    assert simulate("--list") == 0
    lines = capsys.readouterr().out.splitlines()
    at = lines.index("")
    assert [line.split()[0] for line in lines[:at]] == [scenario.name for scenario in SCENARIOS]
    assert [line.split()[0] for line in lines[at + 2 :]] == list(FAMILIES)
    assert all(len(line) > 40 for line in lines[:at] + lines[at + 1 :])


def test_help_holds_the_definitions(capsys: pytest.CaptureFixture[str]) -> None:
    """Each policy with what it does, and the columns."""
    with pytest.raises(SystemExit) as stop:
        simulate("--help")
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert all(f"\n  {policy} " in out for policy in POLICIES)
    assert "over best" in out


def test_the_verdict_comes_from_ten_draws(capsys: pytest.CaptureFixture[str]) -> None:
    """No seed is chosen: the middle one is shown and the worst, each a run that took place; false ones in any count."""
    assert simulate("recurring-crawl", "--json") == 0
    rows = {row["policy"]: row for row in json.loads(capsys.readouterr().out)}
    for row in rows.values():
        assert [draw["seed"] for draw in row["draws"]] == list(range(7, 17))
        ratios = sorted(draw["ratio_to_best"] for draw in row["draws"])
        assert (row["ratio_to_best"], row["worst"]["ratio_to_best"]) == (ratios[4], ratios[-1])
        assert {key: row[key] for key in KEYS} in row["draws"]
    ladder = rows["ladder"]
    assert len({draw["finish_seconds"] for draw in ladder["draws"]}) == 10
    assert ladder["worst"]["ratio_to_best"] > ladder["ratio_to_best"]


def test_a_draw_that_was_given_up_is_the_worst(capsys: pytest.CaptureFixture[str]) -> None:
    """And one policy's draws are other ones than another's only where it acts."""
    assert simulate("endless-batch", "--json", "--draws", "2") == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[0]["worst"]["finish_seconds"] is None
    assert simulate("endless-batch", "--draws", "2") == 0
    out = capsys.readouterr().out
    assert "Of 2 draws of each scenario" in out
    assert " worst " in out.splitlines()[0]


def test_the_last_seed_is_followed_by_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever `--seed` accepts can be drawn from."""
    assert simulate("throttling", "--seed", "999999999", "--draws", "3", "--json") == 0
    row = json.loads(capsys.readouterr().out)[0]
    assert [draw["seed"] for draw in row["draws"]] == [999_999_999, 1_000_000_000, 0]


def test_knobs_and_seed_reach_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    """`--window 4` notices sooner; another seed draws other batches."""
    found = []
    for words in ([], ["--window", "4"], ["--seed", "8"]):
        assert simulate("incident-06-10", "--json", "--draws", "1", *words) == 0
        found.append(json.loads(capsys.readouterr().out)[3]["detect_seconds"])
    assert found[1] < found[0]
    assert found[2] != found[0]


def test_an_unknown_scenario_lists_what_exists(capsys: pytest.CaptureFixture[str]) -> None:
    """All names, and that a file can be given."""
    text = refusal(capsys, "incident")
    assert "'incident'" in text
    assert all(scenario.name in text for scenario in SCENARIOS)
    assert "FILE.toml" in text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--factor", "1"], "--factor is '1'; accepted: a number > 1"),
        (["--seed", "-1"], "--seed is '-1'; accepted: a whole number"),
        (["--seed", "x"], "--seed is 'x'"),
        (["--draws", "0"], "--draws is '0'; accepted: a whole number from 1 to 1000"),
        (["--draws", "1001"], "--draws is '1001'"),
        (["incidnt-06-10"], "did you mean incident-06-10?"),
        (["slow-disk", "--policy", "lader"], "did you mean ladder?"),
        (["--action", "laddder"], "did you mean ladder?"),
        (["--policy", "x", "slow-disk"], "--policy is 'x'; accepted: none, release, finished-batches, ladder, "),
        (["--plot", "a.png"], "--plot is for one scenario"),
        (["--record", "a.jsonl"], "--record is for one scenario"),
        (["slow-disk", "--plot", "a.gif"], "--plot is 'a.gif'; accepted: a file name that ends in .png or .html"),
        (["slow-disk", "--plot", "a.png", "--record", "a.png"], "accepted: two files"),
        (["nowhere.toml"], "nowhere.toml: cannot be read"),
    ],
)
def test_wrong_usage_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], words: list[str], expected: str
) -> None:
    """Exit 2, before anything is run."""
    assert expected in refusal(capsys, *words)


def test_a_bad_variable_is_refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """As by every command."""
    monkeypatch.setenv("HELIX_BFM_CRAWL_WINDOW", "none")
    assert "HELIX_BFM_CRAWL_WINDOW is 'none'" in refusal(capsys, "slow-disk")


def test_a_file_that_cannot_be_written_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The table is there all the same."""
    assert simulate("slow-disk", "--draws", "1", "--record", str(tmp_path / "no" / "a.jsonl")) == 2
    out, err = capsys.readouterr()
    assert "slow-disk" in out
    assert "--record is " in err
    assert "cannot be written: No such file" in err


def test_a_recorded_run_is_a_timeline(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Format 3.6, marked as reconstructed, every committed batch in it."""
    path = tmp_path / "run.jsonl"
    assert simulate("incident-06-11", "--draws", "1", "--record", str(path)) == 0
    assert "timeline of ladder: " in capsys.readouterr().err
    reader = read_timeline(path)
    events = list(reader)
    assert not reader.skipped
    assert isinstance(events[0], RunEvent)
    assert "simulate incident-06-11, policy ladder" in events[0].source
    assert [event.reason for event in events if isinstance(event, WorkerEvent)] == ["first", "recycle"]
    batches = [event for event in events if isinstance(event, BatchEvent)]
    assert sum(batch.genes for batch in batches) == 25_000
    assert [event.t for event in events] == sorted(event.t for event in events)
    (lost,) = (event for event in events if isinstance(event, UnfinishedEvent))
    assert lost.seconds > 60
    assert [event.t for event in events if isinstance(event, ActionEvent)][-1] == lost.t
    readings = [event.used_bytes for event in events if isinstance(event, MemoryEvent)]
    assert max(used for used in readings if used is not None) / 2**30 == pytest.approx(11.85)


def test_a_table_shows_times_for_people() -> None:
    """Seconds, minutes, hours, days."""
    assert [span(value) for value in (None, 12.3, 600, 7201, 200_000, 2_592_000)] == [
        "-",
        "12 s",
        "10.0 min",
        "2.0 h",
        "2.3 d",
        "30 d",
    ]


def test_rows_round_but_do_not_lie() -> None:
    """The ratio of `best` is 1."""
    assert result("slow-disk").row("best").as_json()["ratio_to_best"] == 1


def test_the_order_of_batches_is_an_option(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Long passages of BGE-M3 on 12 GiB, ADAPTIVE.md: 22.7 GiB held as the files come, 4.9 by tokens; both at once."""
    long = tmp_path / "long.toml"
    long.write_text(
        "[card]\nlayers = 24\n[[shards]]\nname = 'long'\ngenes = 1280\ntokens = [4, 2929]\nmixed = true\npad = 1\n"
    )
    held = {}
    for way in ("files", "tokens", "both"):
        assert simulate(str(long), "--order", way, "--draws", "1", "--json") == 0
        rows = json.loads(capsys.readouterr().out)
        held[way] = [(row["order"], row["peak_gib"]) for row in rows if row["policy"] == "none"]
    assert held["both"] == held["files"] + held["tokens"]
    [(_, files), (_, tokens)] = held["both"]
    assert files > 12 > 3 * tokens / 2
    assert simulate(str(long), "--order", "both", "--draws", "1") == 0
    assert f"{files:.1f} GiB" in capsys.readouterr().out


def test_an_order_holds_for_families_and_random_scenarios(capsys: pytest.CaptureFixture[str]) -> None:
    """Each draw of a family is another card, in the same order."""
    assert simulate("leak", "--order", "tokens", "--draws", "2", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert {draw["order"] for row in rows for draw in row["draws"]} == {"tokens"}
    assert simulate("--random", "1", "--order", "tokens", "--json") == 0
    assert {row["order"] for row in json.loads(capsys.readouterr().out)} == {"tokens"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--order", "token"), "--order is 'token'; accepted: files, tokens, both"),
        (("--random", "2", "--order", "both"), "--order is 'both'; accepted beside --random: files or tokens"),
        (("surge", "--order", "both", "--plot", "x.png"), "--plot is for one order of the batches"),
    ],
)
def test_an_order_that_is_refused(capsys: pytest.CaptureFixture[str], words: tuple[str, ...], says: str) -> None:
    """With what is accepted."""
    assert says in refusal(capsys, *words)
