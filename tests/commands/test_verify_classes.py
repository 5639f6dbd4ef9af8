"""Promises of what `verify` finds in genes that are there, and of the command that it names: it mends them."""

from __future__ import annotations

import json
import math
import re
import shlex
import struct

import pytest

from helix_crawl_otel.cli import main
from helix_crawl_otel.encoders.hashing import HashingEncoder
from helix_crawl_otel.shards.vectors import is_vector, pack
from tests.build.conftest import rig
from tests.build.rig import COMMAND, Rig, prose
from tests.shards.shards import rows, sql

__all__ = ["rig"]

DIM = 256
NAN, ZERO, TWICE = pack([math.nan] * DIM), bytes(4 * DIM), pack([2.0, *[0.0] * (DIM - 1)])

FIRST = "WHERE rowid = (SELECT min(rowid) FROM genes)"

DAMAGES = {
    "not_finite": [f"UPDATE genes SET embedding_dense_v2 = X'{NAN.hex()}' {FIRST}"],
    "not_normalised": [f"UPDATE genes SET embedding_dense_v2 = X'{TWICE.hex()}' {FIRST}"],
    "wrong_length": [f"UPDATE genes SET embedding_dense_v2 = X'00' {FIRST}"],
    "content_changed": [f"UPDATE genes SET content = 'another' {FIRST}"],
    "wrong_id": [f"UPDATE genes SET gene_id = 'another' {FIRST}"],
    "genes_gone": [f"DELETE FROM genes {FIRST}"],
    "no_source": ["DELETE FROM helix_crawl_sources"],
}


@pytest.fixture
def built(rig: Rig) -> Rig:
    """A shard of a few genes."""
    return rig.write({"a/one.txt": prose(1, 12)}).built()


@pytest.mark.timeout(300)
def test_each_class_is_named_and_mended_by_the_command_that_is_named(
    built: Rig, capsys: pytest.CaptureFixture[str]
) -> None:
    """And `--quick` does not look. At the end the digest is that of the first build."""
    path = built.out / "a.db"
    before = built.verify()["digest"]
    for name, statements in DAMAGES.items():
        sql(path, *statements)
        assert main(["verify", str(built.out), "--json"]) == 1, name
        found = json.loads(capsys.readouterr().out)
        (one,) = found["by_shard"]
        assert found[name] >= 1, name
        assert one["named"][name][0]["source_id"] == "a/one.txt"
        assert main(["verify", str(built.out)]) == 1
        shown = capsys.readouterr().out
        told = re.search(rf"{name.replace('_', ' ')}: .*a/one\.txt.*\n    (helix-crawl build .*)", shown)
        assert told, shown
        assert main(["verify", str(built.out), "--quick", "--json"]) == (name == "wrong_length")
        assert json.loads(capsys.readouterr().out)["not_finite"] is None
        done = built.run(mending(told[1]))
        assert done.code == 0, (name, done.errors)
        assert built.verify()["digest"] == before, name


def mending(command: str) -> list[str]:
    """The command as the rig runs it."""
    words = shlex.split(command)[1:]
    return [*COMMAND, *words, "--no-metrics", "--json"]


def test_a_source_that_was_deleted_is_told_of(built: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    """Its genes are there, and nothing is wrong with them."""
    (built.source / "a/one.txt").rename(built.source / "a/two.txt")
    assert main(["verify", str(built.out)]) == 0
    assert "1 source whose file is gone: a/one.txt; its genes stay until" in capsys.readouterr().out


def test_no_vector_is_none_by_its_lanes() -> None:
    """Any lane that is infinite or NaN, of either sign, and zeros; denormal numbers and the largest are numbers."""
    for bits in (0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001, 0xFFFFFFFF):
        for lane in range(3):
            lanes = [0x3F800000] * 3
            lanes[lane] = bits
            assert not is_vector(struct.pack("<3I", *lanes)), hex(bits)
    assert not is_vector(struct.pack("<3I", 0, 0x80000000, 0))
    for bits in (1, 0x80000001, 0x7F7FFFFF, 0xFF7FFFFF, 0x00800000):
        assert is_vector(struct.pack("<3I", 0, bits, 0))
    for other in (b"", b"123", None, "text", 7):
        assert not is_vector(other)


def test_vectors_of_an_application_need_not_be_of_length_1(rig: Rig) -> None:
    """Those of this model that were adopted stay as they are; NaN and zeros among them are encoded anew."""
    path = rig.folder / "app.db"
    texts = [f"text of an application {n}" for n in range(8)]
    vectors = [struct.unpack(f"<{DIM}f", one) for one in HashingEncoder().encode(texts)]
    sql(path, "CREATE TABLE genes (gene_id TEXT PRIMARY KEY, content TEXT, embedding_dense_v2 BLOB)")
    for n, (text, vector) in enumerate(zip(texts, vectors, strict=True)):
        stored = {0: NAN, 1: ZERO}.get(n, pack(3 * value for value in vector))
        value = "NULL" if n == 2 else f"X'{stored.hex()}'"
        sql(path, f"INSERT INTO genes VALUES ('{n}', '{text}', {value})")
    done = rig.run(mending(f"helix-crawl backfill {shlex.quote(str(path))} --model hashing"))
    assert (done.code, done.summary["encoded"]) == (0, 3)
    assert main(["verify", str(path)]) == 0
    kept = rows(path, "SELECT embedding_dense_v2 FROM genes WHERE gene_id = '5'")
    assert kept == [(pack(3 * value for value in vectors[5]),)]
