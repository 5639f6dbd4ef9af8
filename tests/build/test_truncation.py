"""Promises of `backfill` for what the app has begun: it goes on with the app's cap of letters and its dimension.

Where vectors and encoder do not agree, the cap and the prompt that explain it are tried and named.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import pytest

from helix_crawl_otel.build.agreement import (
    adopt_or_refuse,
    known_truncation,
    refuse_another,
    told_of_truncation,
)
from helix_crawl_otel.build.begun_shards import BegunShards
from helix_crawl_otel.encoders.base import Encoder, ModelError
from helix_crawl_otel.encoders.hashing import HashingEncoder
from helix_crawl_otel.encoders.load import is_of, load_encoder, model_of
from helix_crawl_otel.encoders.tokens import TokenRoom
from helix_crawl_otel.encoders.truncation import TruncatedEncoder, Truncation, TruncationWish
from helix_crawl_otel.search.index import query
from helix_crawl_otel.shards.errors import EncoderRefused
from helix_crawl_otel.shards.store import ShardStore
from tests.build.rig import COMMAND, Rig, prose, run_here
from tests.commands.app import vectors_of
from tests.commands.genome import LONG, provenance_rows, write_genome
from tests.shards.shards import rows, sql

QUESTION = "Represent this sentence for searching relevant passages: "


def made(contents: Mapping[str, str], encoder: Encoder, cap: int | None, dim: int | None = None) -> dict[str, bytes]:
    """The right vectors."""
    right = TruncatedEncoder(encoder)
    right.truncate(Truncation(cap, dim))
    return {name: right.encode([text])[0] for name, text in contents.items()}


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Where a genome goes."""
    return tmp_path / "a.genome.db"


def opened(path: Path) -> ShardStore:
    """Under a lease."""
    return ShardStore.open(path, epoch=1, create=False)


def adopted(
    path: Path, encoder: Encoder, max_chars: int | None = None, dim: int | None = None
) -> tuple[Truncation, list[str]]:
    """What is cut off from then on, and what is told."""
    cut = TruncationWish(max_chars, dim)
    with closing(opened(path)) as store:
        truncated = TruncatedEncoder(encoder)
        truncated.truncate(known_truncation(store, cut, truncated, BegunShards()))
        notes = adopt_or_refuse(store, truncated, cut, BegunShards())
        return truncated.truncation, notes


@pytest.mark.parametrize("cap", [2000, 1000, 512, 1250, 2048, 777, 1999, 2717])
def test_the_cap_with_which_vectors_agree_is_found_and_named(work: Path, cap: int) -> None:
    """Without a word of the operator's; also where few texts are longer than it."""
    found, (note,) = adopted(write_genome(work, encoded=30, cap=cap), HashingEncoder())
    assert found == Truncation(cap)
    assert f"(--max-chars {cap})" in note


def test_one_long_text_among_many_short_ones_is_enough(work: Path) -> None:
    """Those that are looked at, spread over the file, would all agree without a cap."""
    contents = {f"s{n:03}": f"Short passage number {n}." for n in range(400)} | {"z": prose(3, 9)}
    contents |= {"zz": "Another short one."}
    assert adopted(write_genome(work, contents, encoded=401), HashingEncoder())[0] == Truncation(2000)


def test_a_dimension_is_seen_on_the_vectors(work: Path) -> None:
    """With the cap beside it."""
    found, (note,) = adopted(write_genome(work, encoded=20, dim=128), HashingEncoder())
    assert found == Truncation(2000, 128)
    assert "(--max-chars 2000 --dim 128)" in note


@pytest.mark.parametrize(
    ("prompt", "cap", "asked", "says"),
    [
        (QUESTION, None, None, f"the prompt {QUESTION!r} before each text explains them"),
        ("passage: ", 2000, None, "a cap of 2,000 letters with the prompt 'passage: ' before each text explains them"),
        ("", 2000, 1000, "a cap of 2,000 letters explains them (cosine 1.0000); accepted: --max-chars 2000, or"),
        ("", None, 1000, "the whole text explains them (cosine 1.0000); accepted: --max-chars off, or --reencode"),
        ("unheard of: ", None, None, "every cap of letters and 7 other prompts were looked for, and none explains"),
        ("query: ", 777, None, "a cap of 777 letters with the prompt 'query: ' before each text explains them"),
    ],
)
def test_what_explains_vectors_is_named_where_it_cannot_be_taken(
    work: Path, prompt: str, cap: int | None, asked: int | None, says: str
) -> None:
    """A prompt is the model's affair, and an option of the operator's is not put aside."""
    write_genome(work, encoded=24, prompt=prompt, cap=cap)
    with pytest.raises(EncoderRefused) as refused:
        adopted(work, HashingEncoder(), asked)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("stored", "cap", "asked", "says"),
    [
        (64, 2000, (None, 128), "64 numbers, and --dim is 128; a cap of 2,000 letters explains them (cosine 1.0000);"),
        (64, 2000, (None, 128), "accepted: --max-chars 2000 and --dim 64, or --reencode"),
        (64, 2000, (2000, 256), "accepted: --dim 64, or --reencode"),
        (64, None, (0, 32), "the whole text explains them (cosine 1.0000); accepted: --dim 64, or --reencode"),
        (None, None, (None, 64), "they have 256 numbers, and --dim is 64; the whole text explains them"),
    ],
)
def test_a_dimension_that_would_explain_vectors_is_named(
    work: Path, stored: int | None, cap: int | None, asked: tuple[int | None, int], says: str
) -> None:
    """They are not made by another model: it is the option that differs, alone or with the cap."""
    write_genome(work, encoded=24, cap=cap, dim=stored)
    with pytest.raises(EncoderRefused) as refused:
        adopted(work, HashingEncoder(), *asked)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("said", "tells"), [("2,000", True), ("2 k", True), ("off", False), ("0", False), ("-1", False)]
)
def test_a_cap_that_cannot_be_read_is_told_of(work: Path, said: str, *, tells: bool) -> None:
    """All letters are encoded then, which the application may not have meant."""
    sql(write_genome(work), "CREATE TABLE provenance (char_cap TEXT)", f"INSERT INTO provenance VALUES ({said!r})")
    encoder = TruncatedEncoder(HashingEncoder())
    with closing(opened(work)) as store:
        assert known_truncation(store, TruncationWish(), encoder, BegunShards()) == Truncation()
        notes = told_of_truncation(store, encoder, TruncationWish(), BegunShards())
        assert [f"says {said!r} where the number of letters stands" in note for note in notes] == [True] * tells
        assert told_of_truncation(store, encoder, TruncationWish(0), BegunShards()) == [], "the operator has said it"


@pytest.mark.parametrize(
    ("table", "values", "row"),
    [
        ("CREATE TABLE provenance (char_cap INTEGER)", {"model": "m"}, None),
        ("CREATE TABLE provenance (model TEXT REFERENCES models (name), char_cap INTEGER)", {"model": "m"}, None),
        (
            "CREATE TABLE provenance (model TEXT REFERENCES models (name), char_cap INTEGER)",
            {"model": "m", "cap": 5},
            (None, 5),
        ),
    ],
)
def test_a_row_of_provenance_says_nothing_of_another_table(
    work: Path, table: str, values: Mapping[str, object], row: tuple[object, ...] | None
) -> None:
    """And where nothing is left to be said there is none."""
    sql(write_genome(work), table)
    with closing(opened(work)) as store:
        assert store.note_app_provenance(values) == ""
    assert rows(work, "SELECT * FROM provenance") == ([] if row is None else [row])


def test_a_shard_goes_on_with_its_own_cap_and_refuses_another(work: Path) -> None:
    """It is part of the encoder's identity."""
    with closing(opened(write_genome(work))) as store:
        encoder = TruncatedEncoder(HashingEncoder())
        encoder.truncate(Truncation(2000, 64))
        store.claim(encoder.identity)
        assert known_truncation(store, TruncationWish(), encoder, BegunShards()) == Truncation(2000, 64)
        for fits in (TruncationWish(), TruncationWish(2000), TruncationWish(2000, 64)):
            refuse_another(store, "hashing", fits)
        for cut, says in (
            (TruncationWish(1000), "--max-chars is 1000; accepted: --max-chars 2000 --dim 64, or neither"),
            (TruncationWish(0), "--max-chars is off"),
            (TruncationWish(dim=128), "--dim is 128"),
        ):
            with pytest.raises(EncoderRefused, match=says):
                refuse_another(store, "hashing", cut)
    assert is_of(encoder.identity, "hashing")
    assert model_of(encoder.identity) == "hashing"


def test_more_numbers_than_a_model_makes_are_refused() -> None:
    """In one sentence; as many as it makes are no cut."""
    encoder = TruncatedEncoder(HashingEncoder())
    with pytest.raises(ModelError, match=r"--dim is 257, and hashing makes vectors of 256 numbers; accepted: 1 to 256"):
        encoder.truncate(Truncation(dim=257))
    encoder.truncate(Truncation(dim=256))
    assert encoder.identity == HashingEncoder().identity


def test_what_is_cut_off_counts_as_not_read() -> None:
    """What a token would not hold and what is behind the cap."""
    encoder = TruncatedEncoder(HashingEncoder())
    encoder.truncate(Truncation(1000))
    short, cut, both = TokenRoom(lambda: encoder).fills(["a b", "letters " * 250, "a " * 1500])
    assert short <= 1
    assert cut == pytest.approx(2.0)
    encoder.truncate(Truncation(2000))
    assert TokenRoom(lambda: encoder).fills(["a " * 1500]) == [pytest.approx(1.5 * 1000 / 512)]
    assert both > 1


KEYS = "CREATE TABLE vector_provenance (key TEXT PRIMARY KEY, value_json TEXT)"


@pytest.mark.parametrize(
    ("statements", "cap"),
    [
        ((KEYS, "INSERT INTO vector_provenance VALUES ('dense_passage_char_cap', '1500')"), 1500),
        ((KEYS, """INSERT INTO vector_provenance VALUES ('dense', '{"char_cap": 900, "dim": 256}')"""), 900),
        (
            (
                "CREATE TABLE dense_provenance (dense_passage_char_cap TEXT)",
                "INSERT INTO dense_provenance VALUES ('64')",
            ),
            64,
        ),
        (("CREATE TABLE provenance (char_cap REAL)", "INSERT INTO provenance VALUES (2000.0)"), 2000),
        (
            (
                "CREATE TABLE made (cap INTEGER)",
                "INSERT INTO made VALUES (700)",
                "CREATE VIEW provenance AS SELECT cap AS char_cap FROM made",
            ),
            700,
        ),
        (
            (
                "CREATE TABLE made (cap INTEGER)",
                "CREATE VIEW provenance AS SELECT cap AS char_cap FROM made",
                "DROP TABLE made",
            ),
            None,
        ),
        (("CREATE TABLE provenance (gene_id TEXT, source TEXT)",), None),
        (("CREATE TABLE provenance (char_cap INTEGER)",), None),
        (("CREATE TABLE provenance (char_cap INTEGER)", "INSERT INTO provenance VALUES ('many')"), None),
        (("CREATE TABLE p_provenance (splade_char_cap INTEGER)", "INSERT INTO p_provenance VALUES (1000)"), None),
    ],
)
def test_the_cap_is_read_where_the_app_writes_it(work: Path, statements: tuple[str, ...], cap: int | None) -> None:
    """Whatever shape its table has; what is none is none."""
    sql(write_genome(work), *statements)
    with closing(opened(work)) as store:
        encoder = TruncatedEncoder(HashingEncoder())
        assert known_truncation(store, TruncationWish(), encoder, BegunShards()) == Truncation(cap)
        assert known_truncation(store, TruncationWish(0), encoder, BegunShards()) == Truncation()


def test_a_row_that_only_the_app_can_write_is_told(work: Path) -> None:
    """And nothing is written."""
    sql(write_genome(work), "CREATE TABLE provenance (char_cap INTEGER, signature TEXT NOT NULL)")
    with closing(opened(work)) as store:
        told = store.note_app_provenance({"cap": 2000})
    assert told == "its table provenance needs a signature in each row, which only the app can say"
    assert rows(work, "SELECT count(*) FROM provenance") == [(0,)]


def test_a_half_done_backfill_of_the_app_is_gone_on_with(rig: Rig) -> None:
    """By its table of provenance and by its vectors; what is there stays, the rest is as the app would have made it."""
    folder = rig.folder / "genomes"
    folder.mkdir()
    told = write_genome(folder / "told.db", encoded=20, provenance=(1000, 2000))
    fresh = write_genome(folder / "fresh.db", provenance=(900,))
    found = write_genome(folder / "found.db", encoded=20, dim=64)
    done = rig.run([*COMMAND, "backfill", str(folder), *rig.options, "--json"])
    assert done.code == 0, done.errors
    assert vectors_of(told) == made(LONG, HashingEncoder(), 2000)
    assert vectors_of(fresh) == made(LONG, HashingEncoder(), 900)
    assert vectors_of(found) == made(LONG, HashingEncoder(), 2000, 64)
    notes = [event["text"] for event in done.of("note")]
    for path, option in ((told, "--max-chars 2000"), (fresh, "--max-chars 900"), (found, "--max-chars 2000 --dim 64")):
        assert any(str(path) in note and option in note for note in notes), notes
    assert provenance_rows(told)[-1] == ("embedding_dense_v2", "hashing", 256, 2000, 64, 16)
    assert [len(provenance_rows(path)) for path in (told, fresh)] == [3, 2]
    assert done.summary["unread"]["genes"] > 0
    (best, *_) = query(found, LONG["g03"][:150], 1)
    assert best.gene_id in LONG
    sql(told, "UPDATE genes SET embedding_dense_v2 = NULL WHERE gene_id = 'g00'")
    refused = rig.run([*COMMAND, "backfill", str(told), *rig.options, "--json", "--max-chars", "1000"])
    assert "was encoded by hashing" in refused.summary["failed"][next(iter(refused.summary["failed"]))]
    again = rig.run([*COMMAND, "backfill", str(told), *rig.options, "--json", "--max-chars", "1000", "--reencode"])
    assert again.code == 0, again.errors
    assert vectors_of(told) == made(LONG, HashingEncoder(), 1000)
    assert [row[3] for row in provenance_rows(told)] == [1000, 2000, 2000, 1000]


@pytest.mark.parametrize(
    ("option", "given", "accepted"),
    [
        ("--max-chars", "0", "an integer from 1 to 100000000, or off"),
        ("--max-chars", "2k", "an integer from 1 to 100000000, or off"),
        ("--dim", "-1", "an integer from 1 to 1000000"),
    ],
)
def test_what_is_no_number_is_refused(rig: Rig, option: str, given: str, accepted: str) -> None:
    """Before anything is looked at."""
    code, _, errors = run_here("backfill", str(rig.folder), f"{option}={given}")
    assert code == 2
    assert f"{option} is '{given}'; accepted: {accepted}" in errors


def test_a_real_model_finds_its_cap(work: Path) -> None:
    """MiniLM, whose 256 tokens are some 1,200 letters; a prompt is named with it."""
    encoder = load_encoder("minilm", "cpu", threads=1)
    few = {"short": prose(1, 1)[:200], "long": prose(2, 3), "next": prose(3, 2)}
    write_genome(work, few, encoded=2, encoder=encoder, cap=500)
    assert adopted(work, encoder)[0] == Truncation(500)
    work.unlink()
    write_genome(work, few, encoded=2, encoder=encoder, cap=500, prompt="passage: ")
    with pytest.raises(EncoderRefused, match=r"a cap of 500 letters with the prompt 'passage: ' before each text"):
        adopted(work, encoder)
