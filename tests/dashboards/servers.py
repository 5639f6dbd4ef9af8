"""A real Prometheus, a real Alertmanager and a webhook, on loopback and free ports; ended with the block."""

from __future__ import annotations

import json
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from tests.ports import HERE

__all__ = ["Prometheus", "server", "wait_until", "webhook"]


def wait_until(is_so: Callable[[], bool], what: str, seconds: float = 120.0) -> None:
    """Ask again until it is so."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.1)


@contextmanager
def server(command: list[str], ready: str, log: Path) -> Iterator[None]:
    """A server that runs, once its ready page answers."""
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output, cwd=log.parent) as process:
        try:
            wait_until(lambda: process.poll() is not None or _answers(ready), log.name)
            assert process.poll() is None, log.read_text(encoding="utf-8", errors="replace")
            yield
        finally:
            process.terminate()
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()


@contextmanager
def webhook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """An address, and the alerts that arrive there."""
    arrived: list[dict[str, Any]] = []

    class Receiver(BaseHTTPRequestHandler):
        """Takes what Alertmanager sends."""

        def do_POST(self) -> None:
            """One notification."""
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            arrived.extend(body["alerts"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    receiver = HTTPServer((HERE, 0), Receiver)
    thread = threading.Thread(target=receiver.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://{HERE}:{receiver.server_port}/alert", arrived
    finally:
        receiver.shutdown()
        receiver.server_close()
        thread.join(timeout=60)


class Prometheus:
    """The HTTP interface of a running one."""

    def __init__(self, port: int) -> None:
        self.url = f"http://{HERE}:{port}"

    def get(self, path: str, **parameters: object) -> Any:
        """Content of an answer."""
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=90) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path} {parameters}: {error.read().decode()}") from error

    def series(self, expr: str, start: float, end: float) -> list[dict[str, Any]]:
        """What an expression returns over a time, a value a second."""
        found: list[dict[str, Any]] = self.get("query_range", query=expr, start=start, end=end, step=1)["result"]
        return found


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
