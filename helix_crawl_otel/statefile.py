"""Keeps the ladder's state between processes: plain JSON files, each replaced whole or not at all."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from helix_crawl_otel.logs import watchdog
from helix_crawl_otel.paths import is_no_file
from helix_crawl_otel.policy.state import DurableText, PolicyState, restore_durable

__all__ = ["LadderFiles", "StateFile"]

HELD_SECONDS = (0.02, 0.05, 0.1) if sys.platform == "win32" else ()
"""Waited for whoever has the file open just now, a virus scanner or a reader: on Windows it cannot be replaced."""


class StateFile:
    """The file behind `CrawlWatch(state=...)`.

    Args:
        path: Where it is, or will be; its folder must exist or be creatable.
        wait: Sleeps so many seconds; a seam for tests.
        key_of: See `DurableText`.

    Threads: the owner serialises the calls.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        wait: Callable[[float], object] = time.sleep,
        key_of: Callable[[str], str | None] = str,
    ) -> None:
        self.path = Path(path)
        self._durable = DurableText(key_of)
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
        if is_no_file(self.path):
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

    def keep(self, state: PolicyState) -> Callable[[], None]:
        """Look at the state as it is now. Returns what writes that down, and may raise as `save`."""
        return partial(self.save, self._durable.of(state))

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


class LadderFiles:
    """The state of a run whose shards lie in several folders: rung and baselines of a shard stand in a file of its own
    folder, under the name of its own file. So it finds them again whatever else a command names, and in what order.

    Args:
        home: The file of the run: of shards that have no place of their own, and what earlier versions kept all in.
        places: Where a shard's state is, by its name in the run: which file, and the shard's name there.

    Threads: the owner serialises the calls.
    """

    def __init__(self, home: Path, places: Mapping[str, tuple[Path, str]]) -> None:
        self._home = home
        self._places = dict(places)
        paths = dict.fromkeys([home, *(path for path, _ in places.values())])
        self._files = [StateFile(path, key_of=partial(self._key_in, path)) for path in paths]

    def load(self, encoder: str) -> PolicyState:
        """The state to go on from, of all the files. Raises as `StateFile.load`."""
        state = PolicyState(encoder=encoder)
        names = {place: name for name, place in self._places.items()}
        for file in self._files:
            found = file.load(encoder)
            for key, shard in found.shards.items():
                name = names.get((file.path, key)) or self._name_of_other(file.path, key)
                known = state.shards.get(name)
                if known is None or shard.ladder.rung > known.ladder.rung:  # a rung is never given back
                    state.shards[name] = shard
            for card, history in found.cards.cards.items():
                state.cards.cards[card] = max(state.cards.cards.get(card, []), history, key=len)
            for key, costs in found.costs.items():
                state.costs[key] = max(state.costs.get(key, costs), costs, key=lambda each: each.crawls)
        return state

    def keep(self, state: PolicyState) -> Callable[[], None]:
        """As that of one file."""
        return partial(_do_all, [file.keep(state) for file in self._files])

    def _name_of_other(self, path: Path, key: str) -> str:
        """What a file knows and this run has no shard of stays there; or it is what the run's name for a shard was when
        one file held all."""
        if path == self._home:
            return key
        name = f"{path}: {key}"
        self._places[name] = path, key
        return name

    def _key_in(self, path: Path, name: str) -> str | None:
        at, key = self._places.get(name, (self._home, name))
        return key if at == path else None


def _do_all(steps: list[Callable[[], None]]) -> None:
    """Each of them, also when an earlier one fails; then the first failure is raised."""
    failures = []
    for step in steps:
        try:
            step()
        except OSError as error:
            failures.append(error)
    if failures:
        raise failures[0]
