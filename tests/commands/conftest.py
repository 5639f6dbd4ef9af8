"""The rig, with its promise that nothing is left running."""

from tests.build.conftest import rig

__all__ = ["rig"]
