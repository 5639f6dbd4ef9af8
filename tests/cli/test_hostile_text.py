"""What comes from outside is shown as text and as nothing else: on the terminal, in a log, on a page."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix_crawl_otel.cli import main
from helix_crawl_otel.commands.common import say
from helix_crawl_otel.commands.query import show
from helix_crawl_otel.formats import MOST_LETTERS, html_text, printable
from helix_crawl_otel.logs import LineFormatter, log_error, logger, watchdog
from helix_crawl_otel.search.index import Match
from helix_crawl_otel.search.place import SourceState
from helix_crawl_otel.timeline import TimelineWriter
from tests.hostile import HOSTILE, assert_tame
from tests.shards.shards import made

Output = pytest.CaptureFixture[str]
hostile = pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
any_text = st.text(st.characters(exclude_categories=()))


@given(any_text)
def test_anything_becomes_one_line(text: str) -> None:
    """What is printable already stays as it is, and nothing is done twice."""
    shown = printable(text)
    assert_tame(shown)
    assert "\n" not in shown
    assert printable(shown) == shown
    assert not text.isprintable() or shown == text


def test_a_line_of_megabytes_is_cut() -> None:
    """And says so; a long command, which is there to be copied, is not."""
    assert printable("ab" * 3_000_000) == f"{'ab' * (MOST_LETTERS // 2)}... (6,000,000 characters)"
    assert len(printable("\x1b" * 3_000_000)) < 5 * MOST_LETTERS
    assert printable("c" * MOST_LETTERS) == "c" * MOST_LETTERS


def test_a_blank_of_any_width_is_a_blank() -> None:
    """Documents in French are full of them."""
    assert printable("12\N{NO-BREAK SPACE}km \N{IDEOGRAPHIC SPACE}é") == "12 km  é"


def test_a_page_gets_text(capsys: Output) -> None:
    """Neither a tag, nor the end of an attribute, nor what turns the line around."""
    assert html_text('<b a="\'">&\u202e\n\x1b') == "&lt;b a=&quot;&#x27;&quot;&gt;&amp;\\u202e\n\\x1b"


@hostile
def test_a_command_prints_lines(text: str, capsys: Output) -> None:
    """As many as it meant to."""
    say(text, "end")
    say(text, to_stderr=True)
    out, err = capsys.readouterr()
    assert_tame(out + err)
    assert (out.count("\n"), err.count("\n")) == (2, 1)


def test_nothing_is_printed_where_the_stream_was_closed(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    """`print` would take standard output for standard error."""
    monkeypatch.setattr(sys, "stderr", None)
    say("an error", to_stderr=True)
    monkeypatch.undo()
    assert capsys.readouterr().out == ""


@hostile
def test_what_was_typed_is_shown_as_text(text: str, capsys: Output) -> None:
    """By the parser, and by the commands that name it."""
    if "\0" in text:
        text = text.replace("\0", "")  # no argument of a process holds one
    for argv in (["verify", text], ["replay", text], ["simulate", text], ["build", ".", "--out", "x", text], [text]):
        with pytest.raises(SystemExit) if argv[0] in (text, "build") else _nothing():
            main(argv)
        out, err = capsys.readouterr()
        assert_tame(out + err)
        assert "error: " in err


class _nothing:
    def __enter__(self) -> None:
        pass

    def __exit__(self, *raised: object) -> None:
        pass


# -- files ---------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such names")
def test_verify_of_files_with_such_names(tmp_path: Path, capsys: Output) -> None:
    """The whole ones in the table, the damaged ones in the errors."""
    for number, text in enumerate(HOSTILE.values()):
        name = text.replace("/", "").replace("\0", "")
        if "\ud800" not in name:  # which is no file's name
            made(tmp_path / f"{number}{name}.db", "a")
            (tmp_path / f"x{number}{name}.db").write_bytes(b"SQLite format 3\0" + b"x" * 4096)
    assert main(["verify", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert_tame(out + err)
    assert r"\x1b[2J\x1b[31mred.db" in out
    assert r"\x1b[2J\x1b[31mred.db" in err
    assert len(out.splitlines()[1].split()) == 7


@hostile
def test_query_shows_genes(text: str, capsys: Output) -> None:
    """Their source and their content are anybody's."""
    show([Match(text, text, 0.5, f"one\ttwo {text}\n{text}", 7, SourceState.GONE)])
    assert_tame(capsys.readouterr().out)


class _Page(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.texts += [value or "" for _, value in attrs]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def _timeline(path: Path, text: str) -> Path:
    """Every text in it is hostile: shard, device, encoder, host, reasons, and the names of actions and outcomes."""
    with TimelineWriter(path, iter(range(10_000)).__next__) as writer:
        writer.run(encoder=text, host=text, source=text, config={"action": text})
        writer.worker(0.5, text, pid=1, reason=text, worker=text)
        for t in range(1, 20):
            writer.batch(float(t), text, text, 64, 1.0, 64.0, text)
            writer.memory(float(t), text, 11, 12)
        for kind in ("DETECT", "RECYCLE", text):
            writer.action(20.0, text, kind, text, {"rate": 1.0, "baseline_source": text}, reason=text)
        writer.unfinished(60.0, text, text, 64, 40.0, 64.0, text)
        writer.write(text, 61.0, what=text)
    with path.open("a", encoding="ascii") as file:
        file.write(json.dumps({"event": "batch", "t": 62.0, "shard": text, "genes": text}) + "\n")
    return path


@pytest.mark.parametrize(
    "text", [*HOSTILE.values(), "<script>alert(1)</script>\"'", "x" * 100_000], ids=[*HOSTILE, "tags of html", "long"]
)
def test_a_timeline_of_anybody(text: str, tmp_path: Path, capsys: Output) -> None:
    """`replay` and `report` read it; the page is text."""
    pytest.importorskip("matplotlib", reason="draws the page")
    timeline = _timeline(tmp_path / "timeline.jsonl", text)
    assert main(["replay", str(timeline)]) == 0
    assert main(["report", str(timeline), "-o", str(tmp_path / "r.html")]) == 0
    out, err = capsys.readouterr()
    assert_tame(out + err)
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert_tame(re.sub(r'd="[^"]*"', "", page))
    assert "script" not in _Page(page).tags
    if text in HOSTILE.values():
        assert printable(text).split("\\")[0][:5] in page


# -- logs ----------------------------------------------------------------------------------------------------------


@hostile
def test_in_somebodys_job_our_lines_are_text(text: str, caplog: pytest.LogCaptureFixture) -> None:
    """Its handlers are not ours: what they are handed does no harm already."""
    watchdog.warning("shard %s is odd: %r", text, ValueError(text))
    logger.error("file %s", text)
    watchdog.error("it failed: %s", text, exc_info=ValueError(text))
    assert_tame(caplog.text)
    messages = [record.getMessage() for record in caplog.records[:2]]
    assert len("\n".join(messages).split("\n")) == 2
    assert messages[0].startswith("[crawl-watchdog] shard ")


def test_a_plain_line_keeps_its_arguments(caplog: pytest.LogCaptureFixture) -> None:
    """Handlers that group by the text, and by what is put into it, still can; and what cannot be put raises nothing."""
    logger.warning("file %s", "a.txt")
    assert (caplog.records[0].msg, caplog.records[0].args) == ("file %s", ("a.txt",))

    class Odd:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    record = logger.makeRecord(logger.name, logging.ERROR, "f", 1, "%r", (Odd(),), None)
    assert logger.filter(record)
    assert isinstance(record.args, tuple)


@hostile
def test_our_own_handlers_write_records_that_cannot_be_forged(text: str) -> None:
    """Another library's message, an error's text in a traceback, and an error that nobody caught."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LineFormatter("2026 %(levelname)s %(message)s"))
    somebody = logging.Logger("somebody's")
    propagates, logger.propagate = logger.propagate, False
    for one in (somebody, logger):
        one.addHandler(handler)
    try:
        somebody.error(text)
        try:
            raise ValueError(text)
        except ValueError as error:
            somebody.exception(text)
            log_error(ValueError, error, error.__traceback__)
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagates
    lines = stream.getvalue().rstrip("\n").split("\n")
    assert_tame("\n".join(lines))
    starts = [line for line in lines if not line.startswith("  ")]
    assert [line[:11] for line in starts] == ["2026 ERROR ", "2026 ERROR ", "2026 CRITIC"]
    assert "  Traceback (most recent call last):" in lines
