"""The suite under Windows semantics: a Windows CPython under Wine, put together and run from Linux.

    python -m tests.wine.run                 the folders that matter there, as the gate runs them
    python -m tests.wine.run tests/shards -x  what follows goes to pytest

A smoke test of Windows semantics and no proof of Windows: say "under Wine" of what it has shown.
"""
