"""Ports for what has to be told one before it starts."""

from __future__ import annotations

import random
import socket

__all__ = ["HERE", "free_port"]

HERE = "127.0.0.1"

# Below what the systems give out by themselves (Linux from 32768 on, others from 49152 on): else somebody who asks for
# any port could be given this one before who it was chosen for binds it.
LOWEST, HIGHEST = 20_000, 32_000


def free_port() -> int:
    """A port that nobody listens on, and that nobody is given who does not name it."""
    draw = random.SystemRandom()  # two runs of the tests at once do not try the same ones
    while True:
        port = draw.randint(LOWEST, HIGHEST)
        with socket.socket() as probe:
            try:
                probe.bind((HERE, port))
            except OSError:
                continue
        return port
