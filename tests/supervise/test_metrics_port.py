"""Where a run serves its metrics when it cannot have the usual port."""

from __future__ import annotations

import socket
import subprocess
import sys

CODE = """
import sys
from helix_crawl_otel.otel.exporters import read_exporters
from helix_crawl_otel.supervise.session import open_metrics
try:
    metrics = open_metrics(
        sys.argv[1], int(sys.argv[2]), insists=False, note=lambda level, text: print(text), exporters=read_exporters({})
    )
except OSError as error:
    print("refused:", error.strerror)
else:
    metrics.endpoint.close()
"""


def served(host: str, port: int) -> str:
    """What is said of it, by a process of its own: there is one global meter provider a process."""
    command = [sys.executable, "-c", CODE, host, str(port)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=150).stdout


def test_a_port_in_use_is_one_sentence_for_people() -> None:
    """Which port, what to do, and where the metrics are; no number of an error."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = served("127.0.0.1", port)
    # Windows says of a port that somebody has to himself only that it is not to be had.
    assert said.startswith(
        (
            f"port {port} on 127.0.0.1 is in use; free it, or choose another",
            f"port {port} on 127.0.0.1 is in use or reserved; choose another",
        )
    )
    assert "; the metrics are at http://127.0.0.1:" in said


def test_a_host_that_is_not_here_is_refused_with_the_port_that_was_asked_for() -> None:
    """Another port would not help, and none is named that nobody typed."""
    assert served("192.0.2.1", 9464).startswith("refused: cannot listen on 192.0.2.1, port 9464: ")
