"""Tells somebody that a run has ended: a URL gets the summary by POST, a command gets it on its standard input."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from helix_crawl_otel.config import ConfigError
from helix_crawl_otel.logs import logger

__all__ = ["check_target", "notify"]

URL_SECONDS = 10.0
COMMAND_SECONDS = 60.0

STDERR = 2


def check_target(target: str | None) -> None:
    """Refuse what can tell nobody: before the run, since after it nobody would hear of that.

    Raises:
        ConfigError: It is no command that can be found; the message says what is accepted.
    """
    if target is None or _is_url(target):
        return
    try:
        words = _words(target)
    except ValueError as error:
        words, why = [], str(error)
    else:
        why = f"{words[0]}: command not found" if words else "it is empty"
    if not words or shutil.which(words[0]) is None:
        accepted = "an http(s) URL, or a command: a program on PATH, or the path of one, and its arguments"
        raise ConfigError(f"--notify is {target!r} ({why}); accepted: {accepted}")


def notify(target: str | None, summary: Mapping[str, Any]) -> None:
    """Tell. What goes wrong is one line in the log: the run is over, and went as it went.

    Args:
        target: `http://...`, `https://...`, or a command; no shell is involved. `None` tells nobody.
        summary: Plain JSON.
    """
    if target is None:
        return
    content = json.dumps(summary).encode()
    is_url = _is_url(target)
    try:
        if is_url:
            _post(target, content)
        else:  # what it prints must not mix with the events on standard output
            subprocess.run(_words(target), input=content, stdout=STDERR, timeout=COMMAND_SECONDS, check=True)
    except (OSError, ValueError, IndexError, subprocess.SubprocessError) as error:
        logger.error("--notify %s failed: %s", _shown(target) if is_url else target, " ".join(str(error).split()))


def _post(url: str, content: bytes) -> None:
    # Late: TLS and all of e-mail are imported with it, and few runs tell anybody.
    from http.client import HTTPException
    from urllib.request import Request, urlopen

    request = Request(url, data=content, headers={"Content-Type": "application/json"}, method="POST")
    try:
        with urlopen(request, timeout=URL_SECONDS):
            pass
    except HTTPException as error:
        raise OSError(str(error)) from error


def _is_url(target: str) -> bool:
    return target.lower().startswith(("http://", "https://"))


def _words(command: str) -> list[str]:
    if sys.platform != "win32":
        return shlex.split(command)
    # There a backslash belongs to a path.
    return [re.sub('^"(.*)"$', r"\1", word) for word in shlex.split(command, posix=False)]


def _shown(url: str) -> str:
    """A URL without what may be a secret in it: the address of a chat's hook is one."""
    try:
        parts = urlsplit(url)
        return f"{parts.scheme}://{parts.hostname}/..."
    except ValueError:
        return "URL"
