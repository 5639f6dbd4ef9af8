"""The package's logger, and the mark on what it says about a verdict or an action.

Source: DESIGN.md, section 3.1.
"""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

__all__ = ["logger", "watchdog"]

if TYPE_CHECKING:
    Adapter = logging.LoggerAdapter[logging.Logger]
else:
    Adapter = logging.LoggerAdapter  # in Python 3.10 it takes no parameter


class _Watchdog(Adapter):
    """Puts the prefix before each message: people grep for it."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[str, MutableMapping[str, Any]]:
        return f"[crawl-watchdog] {msg}", kwargs


logger = logging.getLogger("helix_crawl_otel")
"""What is said beside the watching."""

watchdog = _Watchdog(logger, {})
"""What is said by whoever watches, decides or acts."""
