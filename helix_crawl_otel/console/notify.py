"""Tells somebody that a run has ended: a URL gets the summary by POST, a command gets it on its standard input."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from helix_crawl_otel.config import ConfigError
from helix_crawl_otel.formats import without_secrets
from helix_crawl_otel.logs import logger

__all__ = ["Notice", "check_target", "notify"]

URL_SECONDS = 10.0
"""For all of it: the name, the connection, the answer."""

COMMAND_SECONDS = 60.0

STDERR = 2

_URL = re.compile(r"https?://(\[[0-9a-f:.]+\]|[^\s/?#@:\[\]]+)(:[0-9]{1,5})?([/?#]\S*)?", re.IGNORECASE)


class Notice:
    """Tells of the end of a run. Use it in a `with` block, around all that others wait for: who is told may start the
    next one at once.

    Args:
        target: See `notify`.

    Attributes:
        summary: What is told, once there is something; plain JSON.
    """

    def __init__(self, target: str | None) -> None:
        self.summary: Mapping[str, Any] | None = None
        self._target = target

    def __enter__(self) -> Notice:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.summary is not None:
            notify(self._target, self.summary)


def check_target(target: str | None, name: str = "--notify") -> None:
    """Refuse what can tell nobody: before the run, since after it nobody would hear of that.

    Raises:
        ConfigError: It is no command that can be found; the message says what is accepted.
    """
    if target is None:
        return
    try:
        if _is_url(target):
            words, why = [], "" if _URL.fullmatch(target) else "it is no such URL"
        else:
            words = _words(target)
            why = f"{_shown(words[0])}: command not found" if words else "it is empty"
    except ValueError as error:
        words, why = [], str(error)
    if why and not (words and shutil.which(words[0])):
        accepted = "an http(s) URL, or a command: a program on PATH, or the path of one, and its arguments"
        raise ConfigError(f"{name} is {_shown(target)!r} ({why}); accepted: {accepted}")


def notify(target: str | None, summary: Mapping[str, Any]) -> None:
    """Tell. What goes wrong is one line in the log: the run is over, and went as it went.

    Args:
        target: `http://...`, `https://...`, or a command; no shell is involved. `None` tells nobody.
        summary: Plain JSON.
    """
    if target is None:
        return
    content = json.dumps(summary).encode()
    try:
        if _is_url(target):
            _post(target, content)
        else:  # what it prints must not mix with the events on standard output
            subprocess.run(_words(target), input=content, stdout=STDERR, timeout=COMMAND_SECONDS, check=True)
    except (OSError, ValueError, IndexError, RuntimeError, MemoryError, subprocess.SubprocessError) as error:
        logger.error("--notify %s failed: %s", _shown(target), _reason(error))


def _post(url: str, content: bytes) -> None:
    """In a thread that nobody waits for longer: a server may answer a byte at a time, a name be looked up for minutes.

    Raises:
        OSError: It failed, or was not done in time.
        ValueError: The URL is none.
    """
    # Late: TLS and all of e-mail are imported with it, and few runs tell anybody.
    from http.client import HTTPException, InvalidURL
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    failed: list[Exception] = []

    def post() -> None:
        try:
            request = Request(url, data=content, headers={"Content-Type": "application/json"}, method="POST")
            with urlopen(request, timeout=URL_SECONDS):
                pass
        except HTTPError as error:
            error.close()
            failed.append(error)
        except HTTPException as error:  # one of them quotes the URL
            failed.append(OSError("it is no such URL" if isinstance(error, InvalidURL) else str(error)))
        except Exception as error:  # noqa: BLE001 - it is raised by who waits
            failed.append(error)

    thread = threading.Thread(target=post, name="helix-crawl-notify", daemon=True)
    thread.start()
    thread.join(URL_SECONDS)
    if failed:
        raise failed[0]
    if thread.is_alive():
        raise TimeoutError(f"no whole answer within {URL_SECONDS:g} seconds")


def _is_url(target: str) -> bool:
    return target.lower().startswith(("http://", "https://"))


def _words(command: str) -> list[str]:
    if sys.platform != "win32":
        return shlex.split(command)
    # There a backslash belongs to a path.
    return [re.sub('^"(.*)"$', r"\1", word) for word in shlex.split(command, posix=False)]


def _shown(target: str) -> str:
    [shown] = without_secrets([f"--notify={target}"])
    return shown.partition("=")[2]


def _reason(error: Exception) -> str:
    """Without the words of a command, and without the URL, which some errors quote."""
    if isinstance(error, subprocess.CalledProcessError):
        return f"it ended with exit code {error.returncode}"
    if isinstance(error, subprocess.TimeoutExpired):
        return f"it was not done within {COMMAND_SECONDS:g} seconds, and was ended"
    return " ".join(" ".join(without_secrets([str(error)])).split())
