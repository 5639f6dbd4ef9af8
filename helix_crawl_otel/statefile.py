"""Keeps the ladder's state between processes: one plain JSON file, replaced whole or not at all."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from helix_crawl_otel.logs import watchdog
from helix_crawl_otel.policy.state import PolicyState, restore_durable

__all__ = ["StateFile"]

HELD_SECONDS = (0.02, 0.05, 0.1) if sys.platform == "win32" else ()
"""Waited for whoever has the file open just now, a virus scanner or a reader: on Windows it cannot be replaced."""


class StateFile:
    """The file behind `CrawlWatch(state=...)`.

    Args:
        path: Where it is, or will be; its folder must exist or be creatable.
        wait: Sleeps so many seconds; a seam for tests.

    Threads: the owner serialises the calls.
    """

    def __init__(self, path: str | os.PathLike[str], wait: Callable[[float], object] = time.sleep) -> None:
        self.path = Path(path)
        self._wait = wait
        self._is_held = False  # for longer than that: nobody waits again until it has been let go
        self._written: str | None = None

    def load(self, encoder: str) -> PolicyState:
        """The state to go on from; a new one where there is no file.

        A damaged file is set aside under another name, never deleted, and a warning says so: the job starts with
        rung 0 rather than not at all.

        Raises:
            ValueError: There is something that is no file: a pipe would be waited for, and none of it is ours to move.
        """
        if self.path.exists() and not self.path.is_file():
            raise ValueError(
                f"state is {str(self.path)!r}, a folder, a pipe or a device; accepted: a file, there or not"
            )
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return PolicyState(encoder=encoder)
        except (OSError, UnicodeDecodeError) as error:
            return self._start_anew(encoder, error)
        try:
            return restore_durable(json.loads(text), encoder)
        except (ValueError, RecursionError) as error:
            return self._start_anew(encoder, error)

    def save(self, text: str) -> None:
        """Replace the file by this JSON, unless it holds it already.

        Raises:
            OSError: It cannot be written; the old content is still there.
        """
        if text == self._written:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_name(f"{self.path.name}.{os.getpid()}.tmp")
        try:
            with beside.open("w", encoding="utf-8", newline="\n") as out:
                out.write(text)
            self._put(beside)
        except OSError:
            beside.unlink(missing_ok=True)
            raise
        self._written = text

    def _put(self, beside: Path) -> None:
        for seconds in () if self._is_held else HELD_SECONDS:
            try:
                beside.replace(self.path)
            except PermissionError:
                self._wait(seconds)
            else:
                return
        self._is_held = True
        beside.replace(self.path)
        self._is_held = False

    def _start_anew(self, encoder: str, error: Exception) -> PolicyState:
        aside = self.path.with_name(f"{self.path.name}.damaged-{os.getpid()}")
        try:
            self.path.replace(aside)
            kept = f"set aside as {aside.name}"
        except OSError as failure:
            kept = f"left where it is ({failure.strerror})"
        watchdog.warning(
            "state file %s cannot be used (%s); %s; every shard starts on rung 0",
            self.path,
            error,
            kept,
        )
        return PolicyState(encoder=encoder)
