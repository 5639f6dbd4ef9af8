"""A scenario of the user's own: what the file may say, and what is said of a bad one."""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix_crawl_otel.commands.simulate import register
from helix_crawl_otel.modelled_card import CardModel
from helix_crawl_otel.policy.settings import Settings
from helix_crawl_otel.simulate.compare import compare
from helix_crawl_otel.simulate.scenario import MAX_BATCHES, Stretch
from helix_crawl_otel.simulate.scenario_file import EXAMPLE, ScenarioFileError, load_scenario

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LEAST = '[[shards]]\nname = "a"\ngenes = 640\n'


def written(folder: Path, text: str) -> Path:
    """A scenario file."""
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_example_runs(tmp_path: Path) -> None:
    """What `--example` prints is a scenario, and its stretches make two shards."""
    scenario = load_scenario(written(tmp_path, EXAMPLE))
    assert scenario.name == "mine"
    assert {load.shard for load in scenario.loads()} == {"notes", "mails"}
    assert compare(scenario, Settings()).row("ladder").finish_seconds is not None


def test_the_example_shows_every_key_with_its_default() -> None:
    """Nothing that can be set is left out, and the card of the example differs only where it says so."""
    content = tomllib.loads(EXAMPLE)
    assert set(content["card"]) == {item.name for item in fields(CardModel)}
    shown = set().union(*content["shards"])
    assert shown == {"name" if item.name == "shard" else item.name for item in fields(Stretch)}
    default = CardModel()
    other = {key for key, value in content["card"].items() if value != getattr(default, key)}
    assert other == {"limit_gib", "withheld_gib", "others_gib"}


def test_the_command_prints_the_example(capsys: pytest.CaptureFixture[str]) -> None:
    """Byte for byte, so that it can be redirected into a file."""
    parser = argparse.ArgumentParser()
    register(parser.add_subparsers())
    args = parser.parse_args(["simulate", "--example"])
    assert args.func(args) == 0
    assert capsys.readouterr().out == EXAMPLE


def test_a_shard_is_enough(tmp_path: Path) -> None:
    """Everything else has a default: the card of the incidents."""
    scenario = load_scenario(written(tmp_path, LEAST))
    assert scenario.card == CardModel()
    assert scenario.genes == 640


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "shards is []; accepted: one table [[shards]] or more"),
        ("shards = 3", "shards is 3; accepted: one table [[shards]] or more"),
        ("shards = [1]", "shards is [1]; accepted: one table [[shards]] or more"),
        ("card = 8\n" + LEAST, "card is 8; accepted: a table, [card]"),
        ("text = 5\n" + LEAST, "text is 5; accepted: a string"),
        ("seed = -1\n" + LEAST, "seed is -1; accepted: a whole number from 0"),
        ("jitter = 1.5\n" + LEAST, "jitter is 1.5; accepted: a number from 0 to 0.9"),
        ("release_every = 2.5\n" + LEAST, "release_every is 2.5; accepted: a whole number from 0"),
        (
            "speed = 3\n" + LEAST,
            "speed is 3, an unknown key; accepted: text, release_every, order, batch_tokens, vram_cap, jitter, "
            "seed, card, shards",
        ),
        ("[card]\nlimit = 8\n" + LEAST, "card.limit is 8, an unknown key; accepted: limit_gib, "),
        ("[card]\nlimit_gib = '8'\n" + LEAST, "card.limit_gib is '8'; accepted: a number from 0.1"),
        ("[card]\nlimit_gib = nan\n" + LEAST, "card.limit_gib is nan; accepted: a number from 0.1"),
        ("[card]\nlimit_gib = inf\n" + LEAST, "card.limit_gib is inf; accepted: a number from 0.1"),
        (
            "[card]\nlimit_gib = 1\nothers_gib = 2\n" + LEAST,
            "card.others_gib and withheld_gib are 2 and 0.15; accepted",
        ),
        ("[[shards]]\ngenes = 5", "shards[1].name is missing; accepted: a name"),
        ("[[shards]]\nname = 'a'", "shards[1].genes is missing; accepted: a whole number"),
        ("[[shards]]\nname = ''\ngenes = 5", "shards[1].name is ''; accepted: a name"),
        ("[[shards]]\nname = 7\ngenes = 5", "shards[1].name is 7; accepted: a name"),
        ("[[shards]]\nname = 'a'\ngenes = 0", "shards[1].genes is 0; accepted: a whole number from 1"),
        ("[[shards]]\nname = 'a'\ngenes = true", "shards[1].genes is True; accepted: a whole number from 1"),
        (LEAST + "gens = 5", "shards[1].gens is 5, an unknown key; accepted: name, genes, "),
        (LEAST + LEAST + "speed = 0", "shards[2].speed is 0; accepted: a number from 0.001 to 1"),
        (LEAST + "stalls = 1", "shards[1].stalls is 1; accepted: true or false"),
        (LEAST + "tokens = 5", "shards[1].tokens is 5; accepted: two whole numbers, [shortest, longest]"),
        (LEAST + "tokens = [5]", "shards[1].tokens is [5]; accepted: two whole numbers, [shortest, longest]"),
        (LEAST + "tokens = [9, 5]", "shards[1].tokens is [9, 5]; accepted: two whole numbers, [shortest, longest]"),
        (LEAST + "tokens = ['a', 5]", "shards[1].tokens is 'a'; accepted: a whole number from 1"),
        (LEAST.replace("640", "999999999"), f"shards have 15625000 batches in all; accepted: at most {MAX_BATCHES}"),
        (LEAST.replace("640", "9" * 400), "shards[1].genes is 9999"),
        ("[card", "is not TOML: "),
        (LEAST + "name = 'b'", "is not TOML: "),
    ],
)
def test_a_bad_file_gets_one_clear_sentence(tmp_path: Path, text: str, expected: str) -> None:
    """File, key, value, what is accepted."""
    path = written(tmp_path, text)
    with pytest.raises(ScenarioFileError) as error:
        load_scenario(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert expected in message
    assert "\n" not in message


def test_a_file_that_is_no_text_or_not_there_is_named(tmp_path: Path) -> None:
    """A folder, nothing, and bytes."""
    path = tmp_path / "mine.toml"
    for expected in ("cannot be read: No such file", "cannot be read: Is a directory", "is not UTF-8 text (byte 0)"):
        with pytest.raises(ScenarioFileError, match=re.escape(expected)):
            load_scenario(path)
        if path.is_dir():
            path.rmdir()
            path.write_bytes(b"\xff\xfe")
        elif not path.exists():
            path.mkdir()


values = st.one_of(
    st.none().map(lambda _: "[]"),
    st.booleans().map(lambda value: str(value).lower()),
    st.integers().map(str),
    st.floats().map(lambda value: repr(value).replace("e+", "e")),
    st.text("abc", max_size=3).map(lambda value: f"'{value}'"),
)
KEYS = [
    "text",
    "seed",
    "jitter",
    "release_every",
    "card",
    "shards",
    *(f"card.{item.name}" for item in fields(CardModel)),
]


@given(lines=st.dictionaries(st.sampled_from(KEYS), values, max_size=4))
def test_no_value_raises_anything_else(tmp_path_factory: pytest.TempPathFactory, lines: dict[str, str]) -> None:
    """A scenario or the one error."""
    text = "".join(f"{key} = {value}\n" for key, value in lines.items()) + LEAST
    path = written(tmp_path_factory.mktemp("scenario"), text)
    try:
        scenario = load_scenario(path)
    except ScenarioFileError:
        return
    assert compare(scenario, Settings()).rows
