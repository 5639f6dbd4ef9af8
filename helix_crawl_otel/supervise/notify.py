"""Tells somebody that a run has ended: a URL gets the summary by POST, a command gets it on its standard input."""

from __future__ import annotations

import json
import logging
import shlex
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

__all__ = ["notify"]

logger = logging.getLogger("helix_crawl_otel")

URL_SECONDS = 10.0
COMMAND_SECONDS = 60.0


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
        if target.lower().startswith(("http://", "https://")):
            headers = {"Content-Type": "application/json"}
            request = urllib.request.Request(target, data=content, headers=headers, method="POST")
            with urllib.request.urlopen(request, timeout=URL_SECONDS):
                return
        words = shlex.split(target, posix=sys.platform != "win32")
        subprocess.run(words, input=content, timeout=COMMAND_SECONDS, check=True)
    except (OSError, ValueError, urllib.error.URLError, subprocess.SubprocessError) as error:
        logger.error("--notify %s failed: %s", target, error)
