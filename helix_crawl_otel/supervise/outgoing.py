"""Sends a worker its messages from a thread of its own, so that nobody in the supervisor ever waits for a worker.

A worker that is wedged or stopped does not read. Its pipe holds a few messages, on Windows and macOS 8 kB of them; a
send that found it full would otherwise hold up the ticker, and with it the policy of every other worker.

Source: DESIGN.md, section 7.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from queue import SimpleQueue
from typing import Protocol

from helix_crawl_otel.link.channel import ChannelClosed

__all__ = ["SendQueue", "Sender"]


class Sender(Protocol):
    """Where messages for a worker go."""

    def send(self, message: Mapping[str, object]) -> None:
        """Send one message."""


class SendQueue:
    """Messages on their way to one worker, in order. What a worker that has gone was still to get is thrown away.

    Args:
        channel: The supervisor's end. Closing it ends a send that waits.
        name: For the thread.

    Threads: any.
    """

    def __init__(self, channel: Sender, name: str) -> None:
        self._channel = channel
        self._waiting: SimpleQueue[Mapping[str, object] | None] = SimpleQueue()
        threading.Thread(target=self._deliver, name=f"helix-crawl-mail-{name}", daemon=True).start()

    def send(self, message: Mapping[str, object]) -> None:
        """Have one message sent; comes back at once."""
        self._waiting.put(message)

    def close(self) -> None:
        """End the thread once what waits has been sent."""
        self._waiting.put(None)

    def _deliver(self) -> None:
        message = self._waiting.get()
        while message is not None:
            try:
                self._channel.send(message)
            except ChannelClosed:  # it is gone; its exit is about to be seen
                return
            message = self._waiting.get()
