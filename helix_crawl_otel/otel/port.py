"""Whether a port is to be had, by listening there for a moment."""

from __future__ import annotations

import socket
import sys

__all__ = ["check_port"]


def check_port(host: str, port: int) -> None:
    """Listen there for a moment.

    Raises:
        OSError: It cannot be done: in use, reserved, no such host.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as trial:
        if sys.platform == "win32":
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:  # as a server does: an address that was left a moment ago is free
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        trial.bind(address)
        trial.listen()
