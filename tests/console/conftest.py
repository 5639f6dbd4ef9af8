"""The rig of the real-process tests."""

from __future__ import annotations

from tests.jobs.conftest import rig

__all__ = ["rig"]
