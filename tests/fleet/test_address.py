"""What is no cluster is told in a sentence and at once: Ray itself tries for minutes, and heeds no interrupt."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from helix_crawl_otel.fleet import cluster
from helix_crawl_otel.fleet.cluster import ClusterError, check_cluster, connected
from helix_crawl_otel.interrupts import PausedEarly

pytestmark = pytest.mark.fleet


@contextmanager
def something_at(answer: bytes | None) -> Iterator[str]:
    """A server that answers so, or hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection, suppress(ConnectionError):
                if answer is not None:
                    connection.recv(1024)
                    connection.sendall(answer)
                    while connection.recv(1024):
                        pass  # until the other side goes

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        thread.join(10)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="needs the extra `ray`")
    monkeypatch.setattr(cluster, "KNOCK_SECONDS", 0.5)
    monkeypatch.delenv("RAY_USE_TLS", raising=False)


@pytest.mark.parametrize(
    ("answer", "why"),
    [(b"HTTP/1.1 400 Bad Request\r\n\r\n", "no head of Ray"), (None, "no head of Ray|reset"), (b"", "does not answer")],
    ids=["a web server", "hangs up", "frozen"],
)
@pytest.mark.parametrize("by", ["address", "auto"])
def test_what_answers_there_is_no_head(
    answer: bytes | None, why: str, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Typed, or left behind by a cluster that this machine had joined."""
    with something_at(answer) as address:
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(ClusterError, match=why) as caught:
            check_cluster("auto" if by == "auto" else address)
    assert address in str(caught.value)


def test_a_server_of_grpc_may_be_a_head() -> None:
    """Its settings come first, with or without some in them."""
    with something_at(b"\0\0\6\4\0\0\0\0\0\0\5\0\0\x40\0") as address:
        check_cluster(address)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("fails", [None, ConnectionError("no head"), SystemExit(1)], ids=repr)
def test_an_interrupt_while_ray_starts_ends_it_again(
    number: signal.Signals, fails: BaseException | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray heeds none meanwhile: it is heard, and nothing is begun."""
    ended: list[str] = []

    class Ray:
        def init(self, *args: object, **more: object) -> None:
            signal.raise_signal(number)
            if fails is not None:
                raise fails

        def shutdown(self) -> None:
            ended.append("shutdown")

        def get_runtime_context(self) -> object:
            raise AssertionError("it was begun")

    monkeypatch.setattr(cluster, "_imported", Ray)
    with pytest.raises(PausedEarly), connected("local"):
        raise AssertionError("it was begun")
    assert ended == ([] if fails else ["shutdown"])
