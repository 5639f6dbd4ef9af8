"""Promises of the reading: text is text whatever its marks and line ends, and what is none is said to be none."""

from __future__ import annotations

import codecs
import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix_crawl_otel.corpus import text as module
from helix_crawl_otel.corpus.text import LOOKED_AT, NotText, SourceText, read_text

WORDS = "Grüße aus Łódź 🌍\nand a second line"
MARKED_LITTLE = codecs.BOM_UTF16_LE + WORDS.encode("utf-16-le")
MARKED_BIG = codecs.BOM_UTF16_BE + WORDS.encode("utf-16-be")


def read(folder: Path, raw: bytes) -> SourceText:
    """A file of these bytes, read."""
    path = folder / "source.txt"
    path.write_bytes(raw)
    return read_text(path)


@pytest.mark.parametrize(
    "raw",
    [WORDS.encode(), codecs.BOM_UTF8 + WORDS.encode(), MARKED_LITTLE, MARKED_BIG],
    ids=["UTF-8", "UTF-8 with a mark", "UTF-16 little-endian", "UTF-16 big-endian"],
)
def test_text_is_the_same_in_every_encoding_that_is_read(tmp_path: Path, raw: bytes) -> None:
    """The mark is no part of it; digest, size and time are those of the bytes."""
    found = read(tmp_path, raw)
    assert found.text == WORDS
    assert found.digest == hashlib.sha256(raw).hexdigest()
    assert (found.size, found.mtime_ns) == (len(raw), (tmp_path / "source.txt").stat().st_mtime_ns)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_line_ends_make_no_difference(tmp_path: Path, end: str, encoding: str) -> None:
    """The same tree, checked out on Windows or on an old Mac, gives the same genes."""
    assert read(tmp_path, end.join(["one", "", "two", ""]).encode(encoding)).text == "one\n\ntwo\n"


def test_line_ends_of_all_kinds_in_one_file(tmp_path: Path) -> None:
    """Each is one line end, none two."""
    assert read(tmp_path, b"a\r\nb\rc\nd\r\r\ne\n\rf").text == "a\nb\nc\nd\n\ne\n\nf"


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
    text = read(tmp_path, b"x" * LOOKED_AT + b"\0end").text
    assert text == "x" * LOOKED_AT + " end"
    assert read(tmp_path, codecs.BOM_UTF16_LE + ("x" * LOOKED_AT + "\0end").encode("utf-16-le")).text == text


@pytest.mark.parametrize("raw", [b"", codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE])
def test_an_empty_file_is_an_empty_text(tmp_path: Path, raw: bytes) -> None:
    """With or without a mark."""
    assert read(tmp_path, raw).text == ""


@given(st.text(max_size=200))
def test_what_was_written_is_what_is_read(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """But for line ends and a mark at the beginning."""
    folder = tmp_path_factory.mktemp("text")
    wanted = text.replace("\r\n", "\n").replace("\r", "\n")
    if "\0" not in text and not text.startswith("\ufeff"):
        assert read(folder, text.encode()).text == wanted


class Growing(type(Path())):  # type: ignore[misc]  # the class of paths of this system
    """A file that somebody appends to each time before it is read, so many times."""

    times = 0

    def read_bytes(self) -> bytes:
        """What is there, and more each time."""
        if type(self).times:
            type(self).times -= 1
            with self.open("ab") as file:
                file.write(b" more")
        return super().read_bytes()  # type: ignore[no-any-return]  # of a base that mypy cannot see


def test_a_file_that_changes_while_it_is_read_is_read_again(tmp_path: Path) -> None:
    """Text, size and time are of one moment; a file that never rests is left for the next build."""
    path = Growing(tmp_path / "growing.log")
    path.write_bytes(b"text")
    Growing.times = module.TRIES - 1
    found = read_text(path)
    assert found.text == "text" + " more" * (module.TRIES - 1)
    assert found.size == len(found.text)
    Growing.times = module.TRIES
    with pytest.raises(OSError, match="it is being written to; the next build takes it in"):
        read_text(path)


def test_a_file_that_is_gone_or_may_not_be_read(tmp_path: Path) -> None:
    """The system's own error, which the ingest tells apart."""
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "gone")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match=r"[/\\]folder"):
        read_text(tmp_path / "folder")
