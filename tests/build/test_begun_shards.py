"""Promises of `backfill` for a folder that the app has begun: shards that say nothing get what the others have.

Source: the app's loop takes one file after the other, so a stop leaves whole ones beside such without a vector.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from helix_crawl_otel.build.begun_shards import BegunShards
from helix_crawl_otel.build.cap_search import Explanation, explained
from helix_crawl_otel.encoders.hashing import HashingEncoder
from helix_crawl_otel.encoders.models import dim_of_folder
from helix_crawl_otel.encoders.truncation import TruncatedEncoder, Truncation
from helix_crawl_otel.shards.store import ShardStore
from tests.build.rig import COMMAND, Rig, prose, run_here
from tests.build.test_truncation import made
from tests.commands.app import vectors_of
from tests.commands.genome import LONG, write_genome

ENCODER = HashingEncoder()


def found_in(*paths: Path) -> dict[Truncation, list[str]]:
    """What shards are made with, and their names."""
    found = BegunShards([str(path) for path in paths], 1.0).made(TruncatedEncoder(ENCODER))
    return {truncation: [path.name for path in files] for truncation, files in found.items()}


def claimed(path: Path, cut: Truncation) -> Path:
    """A shard of ours that was begun so."""
    with closing(ShardStore.open(write_genome(path), epoch=1, create=False)) as store:
        encoder = TruncatedEncoder(ENCODER)
        encoder.truncate(cut)
        store.claim(encoder.identity)
    return path


SHORT = {f"s{n}": prose(n, 1)[:300] for n in range(8)}


@pytest.mark.parametrize(
    ("shards", "expected"),
    [
        ({"a": {"encoded": 36}}, {Truncation(2000): ["a"]}),
        ({"a": {"encoded": 9}, "b": {"encoded": 36}}, {Truncation(2000): ["a", "b"]}),
        ({"a": {"encoded": 20, "dim": 64}}, {Truncation(2000, 64): ["a"]}),
        ({"a": {"encoded": 20, "cap": None}}, {Truncation(): ["a"]}),
        ({"a": {"encoded": 20, "cap": 777}}, {Truncation(777): ["a"]}),
        # Vectors say it, whatever the table says.
        ({"a": {"encoded": 20, "provenance": (900,)}}, {Truncation(2000): ["a"]}),
        ({"a": {"provenance": (900,)}, "b": {"encoded": 20}}, {Truncation(2000): ["b"]}),
        ({"a": {"provenance": (900,)}}, {Truncation(900): ["a"]}),
        # Texts too short to show a cap agree with that of the others, also when they come first.
        ({"a": {"contents": SHORT, "encoded": 8}, "b": {"encoded": 20}}, {Truncation(2000): ["b", "a"]}),
        ({"a": {"contents": SHORT, "encoded": 8, "provenance": (900,)}}, {Truncation(900): ["a"]}),
        ({"a": {"contents": SHORT, "encoded": 8, "dim": 32}}, {Truncation(None, 32): ["a"]}),
        # Differing ones are all told.
        (
            {"a": {"encoded": 20}, "b": {"encoded": 20, "cap": 1000}},
            {Truncation(2000): ["a"], Truncation(1000): ["b"]},
        ),
        ({"a": {"encoded": 20, "cap": None}, "b": {"encoded": 20}}, {Truncation(2000): ["b"], Truncation(): ["a"]}),
        # Of another model, or behind a prompt: their own worker refuses them.
        ({"a": {"encoded": 20, "prompt": "query: "}, "b": {"encoded": 20}}, {Truncation(2000): ["b"]}),
    ],
)
def test_what_the_begun_shards_say(
    tmp_path: Path, shards: dict[str, dict[str, object]], expected: dict[Truncation, list[str]]
) -> None:
    """Vectors first, then tables."""
    paths = [write_genome(tmp_path / name, **how) for name, how in shards.items()]  # type: ignore[arg-type]  # each row names its own arguments
    assert found_in(*paths) == expected


def test_what_an_earlier_run_has_noted_needs_no_look(tmp_path: Path) -> None:
    """Also of a shard without a vector yet; a file that is gone or no shard says nothing."""
    mine = claimed(tmp_path / "mine", Truncation(1500))
    (tmp_path / "other").write_bytes(b"x" * 5000)
    assert found_in(tmp_path / "gone", tmp_path / "other", mine) == {Truncation(1500): ["mine"]}


def whole_words(text: str) -> str:
    """The first hundred tokens, as a tokenizer of the app's would cut it."""
    words = list(re.finditer(r"\w+|[^\w\s]", text))
    return text[: words[99].end()] if len(words) > 100 else text


@pytest.mark.parametrize(
    ("cut", "says"),
    [
        (lambda text: text.encode()[:1536].decode(errors="ignore"), "a cap of 1,536 bytes"),
        (whole_words, "a cap of 100 tokens"),
        (
            lambda text: text[: 1000 if text.endswith("x") else 500],
            "caps of 500 and 1,000 letters, each for some of them",
        ),
        (
            lambda text: text[: 1000 if text.endswith("x") else None],
            "caps of none and 1,000 letters, each for some of them",
        ),
    ],
)
def test_what_counts_no_letters_is_named(cut: Callable[[str], str], says: str) -> None:
    """By where several texts were cut off."""
    texts = [prose(n, 1 + n % 12).replace("e", "é" * (1 + n % 3)) for n in range(40, 80)]
    texts = [text + "x" * (n % 2) for n, text in enumerate(texts)]
    sample = [(str(n), text, ENCODER.encode([cut(text)])[0]) for n, text in enumerate(texts)]
    found = explained(sample[:4], sample, TruncatedEncoder(ENCODER))
    assert isinstance(found, Explanation)
    assert found.explains
    assert not found.is_truncation
    assert str(found) == says


def test_a_folder_half_done_by_the_app_ends_with_vectors_of_one_cap(rig: Rig) -> None:
    """Whole shards beside empty and mixed ones, with one worker and the first shard empty; the next run too."""
    folder = rig.folder / "genomes"
    folder.mkdir()
    names = {"a": 0, "done": 36, "half": 15}
    paths = {name: write_genome(folder / f"{name}.db", encoded=count) for name, count in names.items()}
    code, output, errors = run_here("backfill", str(folder), *rig.options, "--json")
    assert code == 0, errors
    for path in paths.values():
        assert vectors_of(path) == made(LONG, ENCODER, 2000)
    assert f"as in {paths['done']}" in output
    late = write_genome(folder / "late.db")
    code, _, errors = run_here("backfill", str(folder), *rig.options, "--json")
    assert code == 0, errors
    assert vectors_of(late) == made(LONG, ENCODER, 2000)


def test_a_shard_that_says_nothing_is_refused_where_the_others_differ(rig: Rig) -> None:
    """It has no vector afterwards, the others go on, each as it is; an option says it."""
    folder = rig.folder / "genomes"
    folder.mkdir()
    silent = write_genome(folder / "a.db")
    some, others = write_genome(folder / "b.db", encoded=20), write_genome(folder / "c.db", encoded=20, cap=1000)
    done = rig.run([*COMMAND, "backfill", str(folder), *rig.options, "--json"])
    assert done.code == 1
    (reason,) = done.summary["failed"].values()
    assert f"nothing in {silent} says how much of a text to encode, and the other shards differ" in reason
    assert f"the first 2,000 letters of each text in {some}, and the first 1,000 letters of each text in {others}" in (
        reason
    )
    assert set(vectors_of(silent).values()) == {None}
    assert vectors_of(some) == made(LONG, ENCODER, 2000)
    assert vectors_of(others) == made(LONG, ENCODER, 1000)
    code, _, errors = run_here("backfill", str(silent), *rig.options, "--json", "--dense-passage-char-cap", "1000")
    assert code == 0, errors
    assert vectors_of(silent) == made(LONG, ENCODER, 1000)


def test_vectors_that_are_encoded_again_say_nothing_of_a_cap(rig: Rig) -> None:
    """So a shard of such is refused where the others differ, with its vectors as they are; else it gets their cap, and
    that is told."""
    folder = rig.folder / "genomes"
    folder.mkdir()
    foreign = write_genome(folder / "a.db", encoded=20, prompt="unheard of: ")
    before = vectors_of(foreign)
    claimed(folder / "b.db", Truncation(1000))
    others = claimed(folder / "c.db", Truncation(500))
    again = ("backfill", str(folder), *rig.options, "--json", "--reencode")
    done = rig.run([*COMMAND, *again])
    assert done.code == 1
    assert f"nothing in {foreign} says how much of a text to encode" in str(done.summary["failed"])
    assert vectors_of(foreign) == before
    others.unlink()
    code, output, errors = run_here(*again)
    assert code == 0, errors
    assert f"the first 1,000 letters of each text are encoded, as in {folder / 'b.db'}" in output
    assert vectors_of(foreign) == made(LONG, ENCODER, 1000)


@pytest.mark.parametrize(("model", "own"), [("hashing", 256), ("minilm", 384)])
def test_more_numbers_than_the_model_makes_are_refused_before_a_shard_is_touched(
    rig: Rig, model: str, own: int
) -> None:
    """By the model's settings, without loading it."""
    path = write_genome(rig.folder / "a.db")
    before = path.read_bytes()
    code, _, errors = run_here("backfill", str(path), "--model", model, "--no-metrics", "--dim", "5000")
    assert code == 2
    assert f"--dim is 5000, and {model} makes vectors of {own} numbers; accepted: 1 to {own}" in errors
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("modules", "own"),
    [
        ({"": ("Transformer", {"hidden_size": 64}), "1_Pooling": ("Pooling", {"pooling_mode_mean_tokens": True})}, 64),
        (
            {
                "": ("Transformer", {"hidden_size": 64}),
                "1_Pooling": ("Pooling", {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}),
                "3_Normalize": ("Normalize", None),
            },
            128,
        ),
        ({"": ("Transformer", {"hidden_size": 64}), "1_Pooling": ("Pooling", {"pooling_mode": "mean"})}, 64),
        ({"": ("Transformer", {"hidden_size": 64}), "2_Dense": ("Dense", {"out_features": 16})}, 16),
        ({"": ("Transformer", {"hidden_size": 64}), "1_Router": ("Router", {})}, None),
        ({"": ("Transformer", {}), "1_Pooling": ("Pooling", {"pooling_mode_mean_tokens": True})}, None),
    ],
)
def test_the_numbers_of_a_model_are_read_from_its_settings(
    tmp_path: Path, modules: dict[str, tuple[str, object]], own: int | None
) -> None:
    """Where those do not say it, nothing is refused before it is loaded."""
    listed = []
    for place, (kind, settings) in modules.items():
        listed.append({"path": place, "type": f"sentence_transformers.models.{kind}"})
        (tmp_path / place).mkdir(exist_ok=True)
        if settings is not None:
            (tmp_path / place / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    (tmp_path / "modules.json").write_text(json.dumps(listed), encoding="utf-8")
    assert dim_of_folder(tmp_path) == own
