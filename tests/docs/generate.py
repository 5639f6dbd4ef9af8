"""Writes the generated parts of the reference: what stands between `<!-- begin NAME -->` and `<!-- end NAME -->`.

    python -m tests.docs.generate           rewrite them
    python -m tests.docs.generate --check   say which pages differ from the code, and exit with 1 if any does

Everything else on those pages is written by hand.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping

from tests.docs import blocks, job_blocks
from tests.rules.tree import ROOT

__all__ = ["BLOCKS", "REFERENCE", "main", "rewritten"]

REFERENCE = ROOT / "docs" / "reference"

BLOCKS: Mapping[str, Callable[[], list[str]]] = {
    "knobs": blocks.knobs,
    "aliases": blocks.aliases,
    "instruments": blocks.instruments,
    "descriptions": blocks.descriptions,
    "label-values": blocks.label_values,
    "buckets": blocks.buckets,
    "names": blocks.names,
    **{f"class {name}": maker for name, maker in blocks.CLASSES.items()},
    "commands": blocks.commands,
    **{f"options {name}": maker for name, maker in blocks.OPTIONS.items()},
    "scenarios": blocks.scenarios,
    "families": blocks.families,
    "policies": blocks.policies,
    **job_blocks.JOB_BLOCKS,
}
"""What is generated, by the name in the marks."""

_MARKED = re.compile(r"<!-- begin (?P<name>[^>]+?) -->\n.*?<!-- end (?P=name) -->", re.DOTALL)


def rewritten(text: str) -> str:
    """A page with its generated parts made anew.

    Raises:
        KeyError: A mark names nothing that can be generated.
    """

    def block(found: re.Match[str]) -> str:
        name = found["name"]
        return "\n".join([f"<!-- begin {name} -->", "", *BLOCKS[name](), "", f"<!-- end {name} -->"])

    return _MARKED.sub(block, text)


def main(arguments: list[str]) -> int:
    """Rewrite or check all pages of the reference. Returns the exit code."""
    differing = []
    for page in sorted(REFERENCE.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        if (new := rewritten(text)) != text:
            differing.append(page)
            if "--check" not in arguments:
                page.write_text(new, encoding="utf-8", newline="\n")
    for page in differing:
        print(f"{'differs' if '--check' in arguments else 'rewritten'}: {page.relative_to(ROOT)}")
    return int(bool(differing) and "--check" in arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
