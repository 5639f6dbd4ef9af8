"""Bars in a console of Windows, which is none that moves its cursor until it is told to be."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.build.processes import mark_process
from tests.build.rig import NO_WINDOW, Rig

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(sys.platform != "win32", reason="needs Windows: elsewhere a terminal is one"),
]

DEADLINE_SECONDS = 120.0

PROGRAM = """
import ctypes, json, sys
assert sys.stdout.isatty()
from helix_crawl_otel.cli import main
kernel32 = ctypes.WinDLL("kernel32")
kernel32.CreateFileW.restype = ctypes.c_void_p
console = ctypes.c_void_p(kernel32.CreateFileW("CONOUT$", 0xC0000000, 3, None, 3, 0, None))

def mode():
    mode = ctypes.c_uint32()
    assert kernel32.GetConsoleMode(console, ctypes.byref(mode))
    return mode.value

before = mode()
code = main(sys.argv[2:])
screen, read = ctypes.create_unicode_buffer(80 * 300), ctypes.c_uint32()
kernel32.ReadConsoleOutputCharacterW(console, screen, len(screen) - 1, 0, ctypes.byref(read))
with open(sys.argv[1], "w", encoding="utf-8") as file:
    json.dump({"before": before, "after": mode(), "code": code, "screen": screen[:read.value]}, file)
"""


def test_a_console_shows_bars_and_is_left_as_it_was(rig: Rig) -> None:
    """Lines and summary can be read on it, and its mode is the old one."""
    rig.write_shards(1, 2, 20)
    seen = rig.folder / "seen.json"
    build = ["build", str(rig.source), "--out", str(rig.out), *rig.options]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(seen), *build],
        env=rig.environ,
        creationflags=NO_WINDOW,  # a console, though nobody sees it; every stream is that
    )
    with process:
        mark_process(rig.mark, process)
        assert process.wait(DEADLINE_SECONDS) == 0
    found = json.loads(seen.read_text(encoding="utf-8"))
    assert found["code"] == 0
    assert found["before"] == found["after"]
    assert "done after" in found["screen"]
