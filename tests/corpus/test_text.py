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

from helix_crawl_otel.corpus import decode
from helix_crawl_otel.corpus import text as module
from helix_crawl_otel.corpus.cut import ChunkRule, chunks
from helix_crawl_otel.corpus.decode import NotText
from helix_crawl_otel.corpus.text import CannotRead, SourceText, read_text

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
    ("raw", "kind", "says"),
    [
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "picture", r"it is a picture \(png\)"),
        (b"text and then \0", "binary file", "it is binary"),
        (b"caf\xc3", "undecodable text", r"it is not UTF-8 \(byte 3\), and its encoding is not certain; it may be cp"),
        (codecs.BOM_UTF16_LE + b"\x00\xd8", "undecodable text", "1 of 1 letters are no UTF-16-LE"),
        (b"\xed\xa0\x80", "undecodable text", "it is not UTF-8"),
        (b"x\n" * 50_000 + b"\xff\n" * 500, "undecodable text", r"it is not UTF-8 \(byte 100000\)"),
        ("Grüße\n".encode() * 3 + "Grüße\n".encode("cp1252") * 3, "undecodable text", "UTF-8 in parts"),
        (
            "これはテストです。\n".encode("cp932") * 9000 + b"\x81\xff",
            "undecodable text",
            "may be Shift-JIS, but byte 171000",
        ),
        (b"", "empty file", "it is empty"),
        (codecs.BOM_UTF8, "empty file", "it holds no text"),
        (codecs.BOM_UTF16_LE, "empty file", "it holds no text"),
        (b" \r\n\t", "empty file", "it holds no text"),
    ],
)
def test_what_is_no_text_says_why(tmp_path: Path, raw: bytes, kind: str, says: str) -> None:
    """What it is, and where it ceases to be text. No guess that is not certain: it would be found by nobody."""
    with pytest.raises(NotText, match=says) as found:
        read(tmp_path, raw)
    assert found.value.kind == kind


LINES = "2026-11-28 12:00:00 INFO  server started, pid 123\n" * 200


@pytest.mark.parametrize(
    ("raw", "text", "read_as"),
    [
        (f"{LINES}Größe: 3 €, für Müller\n".encode("cp1252"), f"{LINES}Größe: 3 €, für Müller\n", "cp1252"),
        (LINES.encode() + b"\xff", LINES + "\ufffd", "UTF-8 with damaged letters"),
        (f"{LINES}caf".encode() + b"\xc3", f"{LINES}caf\ufffd", "UTF-8 with damaged letters"),
        (LINES.encode() * 9 + b"\xfe\xff\n" + LINES.encode() * 9, None, "UTF-8 with damaged letters"),
        (MARKED_LITTLE + b"\0", WORDS + "\ufffd", "UTF-16-LE with damaged letters"),
        (WORDS.encode("utf-16-le"), WORDS, "UTF-16-LE"),
        (WORDS.encode("utf-32-be"), WORDS, "UTF-32-BE"),
        (codecs.BOM_UTF32_LE + WORDS.encode("utf-32-le"), WORDS, ""),
        (codecs.BOM_UTF32_BE + WORDS.encode("utf-32-be"), WORDS, ""),
    ],
)
def test_what_is_read_otherwise_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raw: bytes, text: str | None, read_as: str
) -> None:
    """Where it is not UTF-8 from the beginning, far behind, or in a letter or two; kept or read again, the same."""
    found = read(tmp_path, raw)
    assert found.read_as == read_as
    assert text is None or text_of(found) == text
    assert not read_as or found.digest != hashlib.sha256(raw).hexdigest()
    monkeypatch.setattr(module, "KEPT_BYTES", 10)
    again = read(tmp_path, raw)
    assert (text_of(again), again.read_as, again.digest) == (text_of(found), read_as, found.digest)


def test_of_html_the_text_is_read(tmp_path: Path) -> None:
    """By its name or its beginning, in any encoding that it declares; its digest says so."""
    page = "<!DOCTYPE html><meta charset=koi8-r><title>Поезд</title><p>из <b>Москвы</b>"
    for raw in (page.encode(), page.encode("koi8-r"), page.encode("utf-16")):
        found = read(tmp_path, raw)
        assert text_of(found).strip() == "Поезд\n\nиз Москвы"
        assert "html-" in found.digest


def test_a_nul_far_behind_is_a_blank(tmp_path: Path) -> None:
    """A log with a hole in it is a log; SQLite's own functions would end at the NUL."""
    text = text_of(read(tmp_path, b"x" * decode.HEAD + b"\0end"))
    assert text == "x" * decode.HEAD + " end"
    assert text_of(read(tmp_path, codecs.BOM_UTF16_LE + ("x" * decode.HEAD + "\0end").encode("utf-16-le"))) == text


@given(st.text(max_size=200))
def test_what_was_written_is_what_is_read(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """But for line ends and a mark at the beginning."""
    folder = tmp_path_factory.mktemp("text")
    wanted = text.replace("\r\n", "\n").replace("\r", "\n")
    if text.strip("\0 ").strip() and "\0" not in text and not text.startswith(("\ufeff", "%PDF-", "<")):
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
        patch.setattr(decode, "HEAD", 3)
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
        with pytest.raises(NotText, match=r"it is (binary|an archive)"):
            read_text(path, lambda: blocks.append(1))
    assert len(blocks) <= 1


@pytest.mark.parametrize("line", [b"word " * 20, b"x" * 100, b"A line.\n", "日本語 ".encode() * 9])
def test_a_large_text_is_never_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: bytes) -> None:
    """Also one endless line, and one without a place to cut."""
    monkeypatch.setattr(module, "BLOCK", 10_000)
    monkeypatch.setattr(module, "KEPT_BYTES", 40_000)
    path = tmp_path / "large.txt"
    path.write_bytes(line * (1_000_000 // len(line)))
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
        if most == decode.HEAD and left[0]:
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
