"""Promises of the reading: text is text whatever its marks and line ends, and what is none is said to be none."""

from __future__ import annotations

import codecs
import hashlib
import os
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix_crawl_otel.corpus import text as module
from helix_crawl_otel.corpus.cut import ChunkRule, chunks
from helix_crawl_otel.corpus.text import LOOKED_AT, CannotRead, NotText, SourceText, read_text

WORDS = "Grüße aus Łódź 🌍\nand a second line"
MARKED_LITTLE = codecs.BOM_UTF16_LE + WORDS.encode("utf-16-le")
MARKED_BIG = codecs.BOM_UTF16_BE + WORDS.encode("utf-16-be")


def read(folder: Path, raw: bytes) -> SourceText:
    """A file of these bytes, read."""
    path = folder / "source.txt"
    path.write_bytes(raw)
    return read_text(path)


def text_of(source: SourceText) -> str:
    """All of it."""
    return "".join(source.pieces)


@pytest.mark.parametrize(
    "raw",
    [WORDS.encode(), codecs.BOM_UTF8 + WORDS.encode(), MARKED_LITTLE, MARKED_BIG],
    ids=["UTF-8", "UTF-8 with a mark", "UTF-16 little-endian", "UTF-16 big-endian"],
)
def test_text_is_the_same_in_every_encoding_that_is_read(tmp_path: Path, raw: bytes) -> None:
    """The mark is no part of it; digest, size and time are those of the bytes."""
    found = read(tmp_path, raw)
    assert text_of(found) == WORDS
    assert found.digest == hashlib.sha256(raw).hexdigest()
    assert (found.size, found.mtime_ns) == (len(raw), (tmp_path / "source.txt").stat().st_mtime_ns)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_line_ends_make_no_difference(tmp_path: Path, end: str, encoding: str) -> None:
    """The same tree, checked out on Windows or on an old Mac, gives the same genes."""
    assert text_of(read(tmp_path, end.join(["one", "", "two", ""]).encode(encoding))) == "one\n\ntwo\n"


def test_line_ends_of_all_kinds_in_one_file(tmp_path: Path) -> None:
    """Each is one line end, none two."""
    assert text_of(read(tmp_path, b"a\r\nb\rc\nd\r\r\ne\n\rf")) == "a\nb\nc\nd\n\ne\n\nf"


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "it is binary"),
        (b"text and then \0", "it is binary"),
        (codecs.BOM_UTF32_LE + WORDS.encode("utf-32-le"), "it is binary"),
        (codecs.BOM_UTF32_BE + WORDS.encode("utf-32-be"), "it is binary"),
        (WORDS.encode("utf-16-le"), "it is binary"),
        ("café".encode("latin-1"), r"neither UTF-8 nor UTF-16 with a mark \(byte 3\)"),
        (MARKED_LITTLE + b"\0", "neither UTF-8 nor UTF-16"),
        (codecs.BOM_UTF16_LE + b"\x00\xd8", "neither UTF-8 nor UTF-16"),
        (b"\xed\xa0\x80", "neither UTF-8 nor UTF-16"),
        (b"x" * LOOKED_AT + b"\xff", rf"\(byte {LOOKED_AT}\)"),
    ],
    ids=[
        "a picture",
        "a NUL",
        "UTF-32 little-endian",
        "UTF-32 big-endian",
        "UTF-16 without a mark",
        "Latin-1",
        "half a letter of UTF-16",
        "half a pair of UTF-16",
        "a surrogate in UTF-8",
        "broken far behind",
    ],
)
def test_what_is_no_text_says_why(tmp_path: Path, raw: bytes, says: str) -> None:
    """Nothing is guessed: a wrong guess would be encoded and found by nobody."""
    with pytest.raises(NotText, match=says):
        read(tmp_path, raw)


def test_a_nul_far_behind_is_a_blank(tmp_path: Path) -> None:
    """A log with a hole in it is a log; SQLite's own functions would end at the NUL."""
    text = text_of(read(tmp_path, b"x" * LOOKED_AT + b"\0end"))
    assert text == "x" * LOOKED_AT + " end"
    assert text_of(read(tmp_path, codecs.BOM_UTF16_LE + ("x" * LOOKED_AT + "\0end").encode("utf-16-le"))) == text


@pytest.mark.parametrize("raw", [b"", codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE])
def test_an_empty_file_is_an_empty_text(tmp_path: Path, raw: bytes) -> None:
    """With or without a mark."""
    assert text_of(read(tmp_path, raw)) == ""


@given(st.text(max_size=200))
def test_what_was_written_is_what_is_read(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """But for line ends and a mark at the beginning."""
    folder = tmp_path_factory.mktemp("text")
    wanted = text.replace("\r\n", "\n").replace("\r", "\n")
    if "\0" not in text and not text.startswith("\ufeff"):
        assert text_of(read(folder, text.encode())) == wanted


@given(
    st.text(st.sampled_from("a\r\n é日🌍\0"), max_size=120),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    st.data(),
)
def test_where_a_block_ends_makes_no_difference(
    tmp_path_factory: pytest.TempPathFactory, text: str, encoding: str, data: st.DataObject
) -> None:
    """In the middle of a letter, of a line end or of a mark; kept in memory or read again."""
    raw = text.encode(encoding)
    if data.draw(st.booleans()):
        raw = raw[: data.draw(st.integers(0, len(raw)))] + b"\xff"
    folder = tmp_path_factory.mktemp("blocks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LOOKED_AT", 3)
        whole = _outcome(folder, raw)
        patch.setattr(module, "BLOCK", data.draw(st.integers(2, 9)))
        patch.setattr(module, "KEPT_BYTES", data.draw(st.integers(0, 60)))
        blocks = _outcome(folder, raw)
    assert blocks == whole or "nothing but NUL bytes" in blocks


def _outcome(folder: Path, raw: bytes) -> str:
    try:
        return repr(text_of(read(folder, raw)))
    except NotText as error:
        return str(error)


def test_of_a_large_file_no_more_than_the_beginning_is_read(tmp_path: Path) -> None:
    """A disk image, a database, an archive: known by its head. A hole in a text ends the reading as well."""
    blocks: list[int] = []
    for name, head in (("image", b"\0"), ("archive", b"\x1f\x8b\x08\0"), ("holes", b"A line.\n" * 2000)):
        path = tmp_path / name
        path.write_bytes(head)
        try:
            os.truncate(path, 1 << 40)
        except OSError:
            pytest.skip("this file system has no sparse files of that size")
        with pytest.raises(NotText, match="it is binary"):
            read_text(path, lambda: blocks.append(1))
    assert len(blocks) <= 1


@pytest.mark.parametrize("line", [b"word " * 20, b"x" * 100, b"A line.\n", "日本語 ".encode() * 9])
def test_a_large_text_is_never_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: bytes) -> None:
    """Also one endless line, and one without a place to cut."""
    monkeypatch.setattr(module, "BLOCK", 10_000)
    monkeypatch.setattr(module, "KEPT_BYTES", 40_000)
    path = tmp_path / "large.txt"
    path.write_bytes(line * (2_000_000 // len(line)))
    tracemalloc.start()
    try:
        found = read_text(path)
        passages = sum(1 for _ in chunks(found.pieces, ChunkRule()))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert not found.is_kept
    assert passages > found.chars / 1001
    assert peak < 400_000


def appended_to(monkeypatch: pytest.MonkeyPatch, path: Path, times: int) -> list[int]:
    """Somebody appends to the file each time after its head was read, so many times."""
    left = [times]
    read_on = module._Reading._read

    def and_append(reading: Any, most: int) -> bytes:
        block = read_on(reading, most)
        if most == LOOKED_AT and left[0]:
            left[0] -= 1
            with path.open("ab") as file:
                file.write(b" more")
        return block

    monkeypatch.setattr(module._Reading, "_read", and_append)
    return left


def test_a_file_that_changes_while_it_is_read_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text, size and time are of one moment; a file that never rests is left for the next build."""
    path = tmp_path / "growing.log"
    path.write_bytes(b"text")
    left = appended_to(monkeypatch, path, module.TRIES - 1)
    found = read_text(path)
    assert text_of(found) == "text" + " more" * (module.TRIES - 1)
    assert found.size == found.chars
    left[0] = module.TRIES
    with pytest.raises(CannotRead, match="it is being written to; the next build takes it in"):
        read_text(path)


def test_a_large_file_that_changes_between_its_readings_is_left_for_the_next_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written to, cut short, replaced by something else, gone: what was cut from it so far is not kept."""
    monkeypatch.setattr(module, "KEPT_BYTES", 10)
    path = tmp_path / "large.txt"
    for change, says in (
        (lambda: path.write_bytes(b"other text of the same length"), "it is being written to"),
        (lambda: path.write_bytes(b"less"), "it is being written to"),
        (lambda: path.write_bytes(b"\0" * 29), "it is being written to"),
        (path.unlink, "No such file"),
    ):
        path.write_bytes(b"a text that is of some length")
        os.utime(path, ns=(1, 1))
        found = read_text(path)
        assert text_of(found) == "a text that is of some length"
        change()
        with pytest.raises(CannotRead, match=says):
            text_of(found)


def test_a_file_that_is_gone_or_may_not_be_read(tmp_path: Path) -> None:
    """The one is nothing to tell of, the other is named with the system's own reason."""
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "gone")
    (tmp_path / "folder").mkdir()
    with pytest.raises(CannotRead, match=r"directory|denied"):
        read_text(tmp_path / "folder")


@pytest.mark.skipif(sys.platform == "win32", reason="a named pipe as files are, which Windows has elsewhere")
def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path: Path) -> None:
    """It was a file when the folder was listed."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CannotRead, match="no regular file"):
        read_text(tmp_path / "pipe")


def test_what_comes_while_it_is_read_ends_the_reading(tmp_path: Path) -> None:
    """A pause that is asked for in the middle of a file of gigabytes."""
    path = tmp_path / "large.txt"
    path.write_bytes(b"text\n" * module.BLOCK)

    def stop() -> None:
        raise KeyError("stop")

    with pytest.raises(KeyError):
        read_text(path, stop)
