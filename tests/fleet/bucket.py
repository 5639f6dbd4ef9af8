"""A bucket on this machine: moto serves S3, and a proxy before it lets faults happen.

moto compares a put's condition and writes in two steps, between which another thread may write. A store that keeps its
word does both in one: so the proxy lets one put at a time through, and that is all that it adds to what moto answers.
"""

from __future__ import annotations

import http.client
import socket
import struct
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.ports import HERE

__all__ = ["ENVIRON", "Bucket", "served"]

BUCKET = "shards"

ENVIRON = {"AWS_ACCESS_KEY_ID": "of-the-test", "AWS_SECRET_ACCESS_KEY": "of-the-test", "AWS_REGION": "us-east-1"}


class Bucket:
    """What the proxy does, and what it has seen.

    Attributes:
        faults: What happens to the next requests, one after the other: `503`; `reset`, it is not passed on; `lost`, it
            is passed on, and the answer is cut off; `cut`, so is the answer's body in its middle; `changed`, one byte
            of that is another; `silent`, no answer until the client gives up; `late`, no answer, and it is passed on
            once `release` is called; an empty text, nothing.
        method: Those of other methods are not counted; empty for all.
        seen: Method and path of each request.

    Threads: any.
    """

    def __init__(self, port: int) -> None:
        self.moto = port
        self.faults: deque[str] = deque()
        self.method = "PUT"
        self.seen: list[tuple[str, str]] = []
        self.endpoint = ""
        self.ignores_conditions = False
        self._one_at_a_time = threading.Lock()
        self._late: list[threading.Event] = []

    def environ(self) -> dict[str, str]:
        """By which the bucket is reached."""
        return {**ENVIRON, "AWS_ENDPOINT_URL": self.endpoint}

    def release(self) -> None:
        """Pass on what is late, and wait until it has been."""
        for event in self._late:
            event.set()
        with self._one_at_a_time:
            self._late.clear()

    def fault(self, method: str) -> str:
        """What happens to a request."""
        return self.faults.popleft() if self.faults and self.method in ("", method) else ""

    def passed_on(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, str, list[tuple[str, str]], bytes]:
        """What moto answers."""
        if self.ignores_conditions:
            headers = {name: value for name, value in headers.items() if not name.lower().startswith("if-")}
        with self._one_at_a_time:
            connection = http.client.HTTPConnection(HERE, self.moto, timeout=30)
            try:
                connection.request(method, path, body or None, headers)
                answer = connection.getresponse()
                return answer.status, answer.reason, answer.getheaders(), answer.read()
            finally:
                connection.close()

    def waits(self) -> threading.Event:
        """Set when a late request is to be passed on."""
        event = threading.Event()
        self._late.append(event)
        return event


def _handler(bucket: Bucket) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            bucket.seen.append((self.command, self.path))
            fault = bucket.fault(self.command)
            if fault == "503":
                self.answer(503, "Slow Down", [], b"<Error><Code>SlowDown</Code></Error>")
                return
            if fault == "reset":
                self.cut()
                return
            if fault == "silent":
                self.connection.settimeout(30)
                self.rfile.read(1)  # until the client hangs up
                self.close_connection = True
                return
            if fault == "late":
                event = bucket.waits()
                self.cut()
                event.wait(30)
            status, reason, headers, content = bucket.passed_on(self.command, self.path, dict(self.headers), body)
            if fault == "lost":
                self.cut()
            elif fault != "late":
                if fault == "changed":
                    content = content[:-1] + bytes([content[-1] ^ 1])
                self.answer(status, reason, headers, content, is_cut=fault == "cut")

        def answer(
            self, status: int, reason: str, headers: list[tuple[str, str]], content: bytes, *, is_cut: bool = False
        ) -> None:
            self.send_response_only(status, reason)
            length = next((value for name, value in headers if name.lower() == "content-length"), str(len(content)))
            for name, value in headers:
                if name.lower() not in ("connection", "content-length", "transfer-encoding"):
                    self.send_header(name, value)
            self.send_header("Content-Length", length)
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if is_cut else content)
            if is_cut:
                self.cut()

        def cut(self) -> None:
            """The connection breaks: the client reads of a reset."""
            self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = handle_any

        def log_message(self, format: str, *arguments: object) -> None:
            """Nothing."""

    return Handler


@contextmanager
def served() -> Iterator[Bucket]:
    """A bucket of its own, behind its proxy."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(HERE, port=0, verbose=False)
    server.start()
    try:
        bucket = Bucket(server.get_host_and_port()[1])
        bucket.passed_on("PUT", f"/{BUCKET}", {"Host": f"{HERE}:{bucket.moto}"}, b"")
        proxy = ThreadingHTTPServer((HERE, 0), _handler(bucket))
        proxy.daemon_threads = True
        bucket.endpoint = f"http://{HERE}:{proxy.server_address[1]}"
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield bucket
        finally:
            proxy.shutdown()
            proxy.server_close()
            thread.join()
    finally:
        server.stop()
