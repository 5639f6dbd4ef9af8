"""`--notify` and `--keep-awake`: somebody is told, and what goes wrong there is one line."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import re
import shlex
import socket
import sys
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from helix_crawl_otel.config import ConfigError
from helix_crawl_otel.console import notify as notify_module
from helix_crawl_otel.console.console import keep_awake
from helix_crawl_otel.console.notify import Notice, check_target, notify
from helix_crawl_otel.console.options import CommonOptions, add_common_options, read_common_options
from tests.programs import require_module

SUMMARY = {"exit_code": 0, "encoded": 5}


@contextmanager
def _server(answer: bytes) -> Iterator[tuple[str, list[bytes]]]:
    got: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        """Keeps what it is sent."""

        def do_POST(self) -> None:
            got.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hook?token=secret", got
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_url_gets_the_summary(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """By POST, as JSON; nothing is logged."""
    monkeypatch.setattr(notify_module, "URL_SECONDS", 50.0)  # the server is a thread of a busy machine
    with _server(b"HTTP/1.0 204 No Content\r\n\r\n") as (url, got):
        notify(url, SUMMARY)
    assert [json.loads(content) for content in got] == [SUMMARY]
    assert caplog.records == []


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.0 500 Trouble\r\n\r\n", b"this is no HTTP\r\n\r\n", b""], ids=["500", "garbage", "nothing"]
)
def test_a_url_that_fails_is_one_line_without_its_secret(answer: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever the server answers, nothing is raised."""
    with caplog.at_level(logging.ERROR), _server(answer) as (url, _):
        notify(url, SUMMARY)
    (record,) = caplog.records
    assert re.match(r"--notify http://127\.0\.0\.1:[0-9]+/\.\.\. failed: ", record.message)
    assert "secret" not in record.message
    assert "\n" not in record.message


class Dripping:
    """A server that sends a byte at a time, for ever: of the head, or of what follows it."""

    def __init__(self, begins_with: bytes) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._begins_with = begins_with
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> str:
        self._thread.start()
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}/services/T0/secret"

    def __exit__(self, *raised: object) -> None:
        self._is_over.set()
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        with self._socket.accept()[0] as connection, contextlib.suppress(OSError):
            connection.sendall(self._begins_with)
            while not self._is_over.wait(0.05):
                connection.sendall(b"a")


@pytest.mark.parametrize("begins_with", [b"", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 500 No\r\n\r\n"])
def test_a_server_that_drips_is_given_up(
    begins_with: bytes, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte comes in time; all of them never do."""
    monkeypatch.setattr(notify_module, "URL_SECONDS", 0.3)
    with caplog.at_level(logging.ERROR), Dripping(begins_with) as url:
        notify(url, SUMMARY)
    (record,) = caplog.records
    assert record.message.startswith("--notify http://127.0.0.1:")
    assert "secret" not in record.message
    assert "500" in record.message or "no whole answer within 0.3 seconds" in record.message


def _python(code: str) -> str:
    return f'"{sys.executable}" -c "{code}"' if sys.platform == "win32" else shlex.join([sys.executable, "-c", code])


def test_a_command_gets_the_summary(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """On its standard input; what it prints does not mix with the events on standard output."""
    program = tmp_path / "told.py"
    program.write_text(f"import sys; open({str(tmp_path / 'got')!r}, 'w').write(sys.stdin.read()); print('hello')")
    notify(f'"{sys.executable}" "{program}"', SUMMARY)
    assert json.loads((tmp_path / "got").read_text()) == SUMMARY
    out, err = capfd.readouterr()
    assert out == ""
    assert "hello" in err


@pytest.mark.parametrize(
    "target", ["no-such-command-anywhere", "", "'unfinished", _python("raise SystemExit(3)"), "http://[bad/"]
)
def test_a_command_that_fails_is_one_line(target: str, caplog: pytest.LogCaptureFixture) -> None:
    """The run is over, and went as it went."""
    with caplog.at_level(logging.ERROR):
        notify(target, SUMMARY)
    (record,) = caplog.records
    assert record.message.startswith("--notify ")
    assert "\n" not in record.message
    assert "SystemExit" not in record.message, "its arguments may hold a secret"


@pytest.mark.parametrize(
    "target", ["no-such-command-anywhere --now", "", "'unfinished", "ftp://somewhere/x", "http://", "https://a b"]
)
def test_what_can_tell_nobody_is_refused_before_the_run(target: str) -> None:
    """After a run of hours nobody would hear of it."""
    with pytest.raises(ConfigError, match=r"--notify is .*; accepted: an http\(s\) URL, or a command"):
        check_target(target)


@pytest.mark.parametrize("target", [None, "HTTPS://somewhere/x", _python("raise SystemExit(3)")])
def test_what_can_be_told_is_not_tried_before_the_run(target: str | None) -> None:
    """No request and no process: only what is to be found is looked for."""
    check_target(target)


@pytest.mark.parametrize(
    "target",
    [
        "htps://hooks.example/secret",
        "https://user:secret@hooks.example/",
        "https://hooks.example:secret/x",
        "https://hooks.example/x y/secret",
        "no-such-command-anywhere --header secret",
        "no-such-command-anywhere https://hooks.example/secret",
    ],
)
def test_a_refusal_shows_no_secret(target: str) -> None:
    """What is wrong with it is said all the same."""
    with pytest.raises(ConfigError) as refused:
        check_target(target)
    assert "--notify is '" in str(refused.value)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("target", ["http://[::1]:9/x", "https://hooks.example:8443", "http://a?b=c"])
def test_a_url_is_taken(target: str) -> None:
    """Whatever form its host has."""
    check_target(target)


def test_a_notice_comes_when_there_is_something_to_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the end of its block, once; a run that never began has nothing."""
    told: list[object] = []
    monkeypatch.setattr(notify_module, "notify", lambda target, summary: told.append((target, summary)))
    with Notice("tell"):
        pass
    with Notice("tell") as notice:
        notice.summary = SUMMARY
        assert told == []
    assert told == [("tell", SUMMARY)]


def test_nobody_is_told_unless_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    """No target, no trouble."""
    notify(None, SUMMARY)
    assert caplog.records == []


def test_without_wakepy_the_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence says what to install."""
    monkeypatch.setitem(sys.modules, "wakepy", None)
    notes: list[str] = []
    with keep_awake(True, notes.append):
        pass
    assert notes == ["--keep-awake needs wakepy: `pip install 'helix-crawl-otel[awake]'`; the computer may sleep"]
    with keep_awake(False, notes.append):
        pass
    assert len(notes) == 1


def test_a_desktop_in_trouble_does_not_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library talks to the desktop's bus, and anything may come from there; the run's own errors pass through."""

    def running(on_fail: str) -> None:
        raise RuntimeError(f"no bus\n({on_fail})")

    module = types.ModuleType("wakepy")
    vars(module)["keep"] = types.SimpleNamespace(running=running)
    monkeypatch.setitem(sys.modules, "wakepy", module)
    notes: list[str] = []
    with pytest.raises(KeyError), keep_awake(True, notes.append):
        raise KeyError
    assert notes == ["--keep-awake failed, the computer may sleep: no bus (pass)"]


def test_the_real_wakepy_holds_sleep_off_or_says_that_it_cannot() -> None:
    """Where it is installed: never an exception, at most one sentence."""
    require_module("wakepy", "awake")
    notes: list[str] = []
    with keep_awake(True, notes.append):
        pass
    assert len(notes) <= 1


def options(monkeypatch: pytest.MonkeyPatch, kept: str | None, *typed: str) -> CommonOptions:
    """What a command reads of its options, with this in the variable."""
    if kept is None:
        monkeypatch.delenv("HELIX_CRAWL_NOTIFY", raising=False)
    else:
        monkeypatch.setenv("HELIX_CRAWL_NOTIFY", kept)
    parser = argparse.ArgumentParser()
    add_common_options(parser)
    return read_common_options(parser.parse_args(typed))


def test_an_address_that_is_a_secret_goes_into_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """No list of processes shows it, and no child gets it. What was typed wins; empty is nobody."""
    secret = "https://hooks.example/T0/secret"
    read = options(monkeypatch, secret)
    assert read.notify == secret
    assert secret not in read.environ.values()
    assert os.environ["HELIX_CRAWL_NOTIFY"] == secret
    typed = options(monkeypatch, secret, "--notify", "https://else.example/")
    assert typed.notify == "https://else.example/"
    assert secret not in typed.environ.values()
    assert options(monkeypatch, "").notify is options(monkeypatch, None).notify is None


def test_a_variable_that_tells_nobody_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what may be a secret."""
    with pytest.raises(ConfigError, match=r"^HELIX_CRAWL_NOTIFY is 'no-such-program ...'") as raised:
        options(monkeypatch, "no-such-program --token=abc")
    assert "abc" not in str(raised.value)
