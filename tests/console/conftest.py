"""The rig of the real-process tests."""

from __future__ import annotations

from tests.build.conftest import rig

__all__ = ["rig"]
