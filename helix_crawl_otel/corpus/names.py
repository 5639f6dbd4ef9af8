"""Makes the name of a shard's file from the name of its folder: plain where it can be, safe on every system where not.

Windows refuses some names (`aux`, `con`), some letters, and names that end in a dot; and it takes `Docs` and `docs` for
one file. A name that has to be changed gets a few digits of its own hash, so that no two become the same.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable

__all__ = ["ROOT_SHARD", "file_names"]

ROOT_SHARD = "."
"""The shard of the files that lie in no folder."""

LONGEST, LONGEST_BYTES = 100, 180
"""Characters, and bytes: a file system takes 255 bytes a name, and `.corrupt-1-journal` has to fit behind it."""

_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$) *(\..*)?", re.IGNORECASE)
_UNSAFE = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]|[^\x20-\U0010ffff]|[\ud800-\udfff]')


def file_names(shards: Iterable[str]) -> dict[str, str]:
    """The file of each shard, without a folder.

    Args:
        shards: Names of folders, and `.`; each once.
    """
    names: dict[str, str] = {}
    taken: set[str] = set()
    for shard in sorted(shards):
        name = "_root" if shard == ROOT_SHARD else _safe(shard)
        folded = unicodedata.normalize("NFC", name).casefold()
        while folded in taken or (shard != ROOT_SHARD and folded == "_root"):
            name = f"{name}-{_hash(shard)}"
            folded = unicodedata.normalize("NFC", name).casefold()
        taken.add(folded)
        names[shard] = f"{name}.db"
    return names


def _safe(shard: str) -> str:
    composed = unicodedata.normalize("NFC", shard)  # macOS may hand out the other form of the same folder
    short = _UNSAFE.sub("_", composed)[:LONGEST].encode()[:LONGEST_BYTES]
    name = short.decode("utf-8", "ignore").rstrip(" .")
    if _RESERVED.fullmatch(name):
        # To Windows a device's name ends at the first dot: `com1.txt-...` would still be one.
        first, dot, rest = name.partition(".")
        name = f"{first}_{dot}{rest}" if dot else name
        return f"{name}-{_hash(shard)}"
    return f"{name or '_'}-{_hash(shard)}" if name != composed else name


def _hash(shard: str) -> str:
    return hashlib.sha256(shard.encode("utf-8", "surrogatepass")).hexdigest()[:8]
