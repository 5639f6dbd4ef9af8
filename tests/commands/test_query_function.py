"""`helix-crawl query`, in this process: what is printed where, and what is refused."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from helix_crawl_otel.cli import main
from helix_crawl_otel.encoders.hashing import HashingEncoder
from tests.search.made import BACKUP, make, two_shards


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """A folder of two shards."""
    return two_shards(tmp_path / "shards")


def test_json_is_a_list_for_scripts(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, whatever the letters."""
    make(shards / "odd.db", {"odd/né\n.txt": "naïve \ud83c\udf0d".encode("utf-16", "surrogatepass").decode("utf-16")})
    assert main(["query", str(shards), "naïve", "--json", "-k", "2"]) == 0
    output = capsys.readouterr()
    assert output.out.count("\n") == 1
    found: list[dict[str, Any]] = json.loads(output.out)
    assert [list(gene) for gene in found] == [["gene_id", "source_id", "score", "content", "line", "state"]] * 2
    assert found[0]["source_id"] == "odd/né\n.txt"
    assert output.err == ""


def test_people_get_rank_score_source_and_the_first_lines(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Empty lines are left out."""
    assert main(["query", str(shards), "rotate the backup key", "-k", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("1. 0.")
    assert lines[0].endswith("  docs/backup.md")
    assert [line.strip() for line in lines[1:]] == [line for line in BACKUP.splitlines() if line]


def test_a_passage_cannot_move_the_cursor(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a file holds is shown, not obeyed."""
    make(shards / "evil.db", {"evil\x1b[2J.txt": "clear \x1b[2J the screen \x07 \u202e now"})
    assert main(["query", str(shards), "clear the screen now", "-k", "1"]) == 0
    shown = capsys.readouterr().out
    assert "the screen" in shown
    assert not set(shown) & set("\x1b\x07\u202e")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["{shards}", " \t"], 2, "the text is empty; accepted: at least one word"),
        (["{shards}", "text", "-k", "0"], 2, "--count is '0'; accepted: an integer from 1 to 9999"),
        (["{shards}", "text", "-k", "many"], 2, "--count is 'many'; accepted: an integer from 1 to 9999"),
        (["{shards}", "text", "--device", "gpu"], 2, "--device is 'gpu'; accepted: auto, cpu, cuda or cuda:N"),
        (["{shards}/missing", "text"], 2, "is not there"),
        (["{shards}/empty", "text"], 2, "holds no shard"),
        (["{shards}", "text", "--model", "no/such/model"], 78, "there is no model 'no/such/model'"),
    ],
)
def test_bad_arguments_are_one_clear_sentence(
    shards: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, says: str
) -> None:
    """On standard error, with the exit code of its kind."""
    (shards / "empty").mkdir()
    assert main(["query", *(text.format(shards=shards) for text in arguments)]) == code
    output = capsys.readouterr()
    assert says in output.err
    assert output.err.count("\n") == 1
    assert output.out == ""


def test_bytes_that_are_no_text_are_looked_for_as_question_marks(shards: Path) -> None:
    """A command line may hold anything; it is no reason to fall over."""
    assert main(["query", str(shards), "backup \udcff key"]) == 0


# -- the text, the terminal -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["rotate", "the", "backup", "key", "-k", "1"],
        ["-k", "1", "rotate", "the", "backup", "key"],
        ["rotate", "-k", "1", "the", "--device", "cpu", "backup", "key"],
        ["-k", "1", "--", "rotate", "the", "--backup", "key"],
    ],
)
def test_words_need_no_quotes(shards: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Options may stand before, between and after them."""
    assert main(["query", str(shards), *words]) == 0
    assert "docs/backup.md" in capsys.readouterr().out


@pytest.mark.parametrize("columns", [20, 40, 80, 120])
def test_lines_are_cut_at_the_terminals_width(
    columns: int, shards: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a sign for what is missing; a wide letter takes two columns; of a path its end stays."""
    wide = "\u5907\u4efd" * 90 + "\n" + "\U0001f389" * 90 + "\nshort"
    make(shards / "wide.db", {"wide/" + "deep/" * 30 + "file.md": wide})
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["query", str(shards), "\u5907\u4efd" * 90, "-k", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert all(columns - 1 <= cell_len(line) <= columns for line in lines[:3])
    assert lines[0].split()[-1].startswith("\u2026")
    assert lines[0].endswith("file.md")
    assert lines[1].endswith("\u4efd\u2026") or lines[1].endswith("\u5907\u2026")
    assert lines[2].endswith("\u2026")
    assert lines[3] == "      short"


def test_a_text_beyond_the_models_limit_is_told_of(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On standard error."""
    assert main(["query", str(shards), "backup key " * 600, "--json"]) == 0
    output = capsys.readouterr()
    assert "longer than the 512 tokens that the model reads; the rest is not looked at" in output.err
    assert json.loads(output.out)


# -- one text after the other -----------------------------------------------------------------------------------------


def test_piped_lines_are_answered_one_by_one(
    shards: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A JSON line for each, also for one that cannot be answered; the text of the command line comes first."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("rotate the backup key\n\n  lunch \r\nfish"))
    assert main(["query", str(shards), "-i", "--json", "-k", "1", "stop", "the", "service"]) == 0
    output = capsys.readouterr()
    lines = [json.loads(line) for line in output.out.splitlines()]
    assert [line[0]["source_id"] for line in (lines[0], lines[1], lines[3], lines[4])] == [
        *("docs/backup.md", "docs/backup.md"),
        *("food/lunch.txt", "food/lunch.txt"),
    ]
    assert lines[2] == {"error": "the text is empty; accepted: at least one word"}
    assert len(lines) == 5
    assert output.err == ""


def test_a_piped_file_is_utf_8_whatever_the_system_has(
    shards: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on Windows, where the text of a pipe is of an older encoding: what is no UTF-8 is read as that."""
    asked: list[str] = []
    of_text = HashingEncoder.encode_query

    def encode(self: HashingEncoder, text: str) -> bytes:
        asked.append(text)
        return of_text(self, text)

    monkeypatch.setattr(HashingEncoder, "encode_query", encode)
    monkeypatch.setattr("locale.getpreferredencoding", lambda do_setlocale=True: "cp1252")
    given = "\ufeffMüsli\r\n昼食\n".encode() + "Müsli\n".encode("cp1252")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given), encoding="cp1252"))
    assert main(["query", str(shards), "-i", "--json", "-k", "1"]) == 0
    assert asked == ["Müsli", "昼食", "Müsli"]
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_an_error_does_not_end_it(
    shards: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A shard that is away for a moment; a model that cannot take one text."""
    tried: list[str] = []

    def encode(self: HashingEncoder, text: str) -> bytes:
        tried.append(text)
        if text == "bad":
            raise OSError("it is away")
        return of_text(self, text)

    of_text = HashingEncoder.encode_query
    monkeypatch.setattr(HashingEncoder, "encode_query", encode)
    monkeypatch.setattr(sys, "stdin", io.StringIO("bad\n\nlunch\n"))
    assert main(["query", str(shards), "--interactive", "-k", "1"]) == 0
    output = capsys.readouterr()
    assert output.err == "helix-crawl: error: hashing cannot encode the text: it is away\n"
    assert output.out.count("food/lunch.txt") == 1
    assert tried == ["bad", "lunch"]


def test_nothing_to_look_for(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The way out is in the message."""
    assert main(["query", str(shards)]) == 2
    assert "the text is missing; accepted: at least one word, or --interactive" in capsys.readouterr().err
