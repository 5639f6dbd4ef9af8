"""A build on one system is the build on another: ids, contents, vectors, the digest of all.

The digest was recorded on Linux; Windows is tried under Wine. The files have the line ends of both systems, and of
neither, marks, other letters in their names, folders in folders; some are empty, some no text.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing

from tests.build.rig import Rig, prose

DIGEST = "c3b85b24f2c3150fe412b22dcc856fa22f07d3587061f1b8d801d22a383e083a"

TREE: dict[str, str | bytes] = {
    "loose.txt": "A loose file.\r\nOf two lines.\r\n",
    "docs/windows.md": prose(1, 12).replace("\n", "\r\n"),
    "docs/unix.md": prose(2, 12),
    "docs/of both.md": prose(3, 6).replace("\n\n", "\r\n\n").replace(". ", ".\r", 3),
    "docs/deep/er/marked.txt": b"\xef\xbb\xbf" + prose(4, 5).replace("\n", "\r\n").encode(),
    "docs/deep/sixteen.txt": prose(5, 5).replace("\n", "\r\n").encode("utf-16"),
    "Straße nach Łódź/文.txt": prose(6, 3) + "\r\n\r\nStraße, Łódź, 文.\r\n",
    "empty/nothing.txt": "",
    "binary/picture.bin": b"\x89PNG\r\n\x00\x01",
}


def test_a_tree_has_one_digest_on_every_system(rig: Rig) -> None:
    """Every source by its path with forward slashes; a second build finds nothing to do."""
    rig.write(TREE)
    done = rig.build()
    assert done.code == 0, done.errors
    verified = rig.verify()
    assert (verified["code"], verified["digest"]) == (0, DIGEST)
    sources = set()
    for path in rig.out.glob("*.db"):
        with closing(sqlite3.connect(path)) as connection:
            sources |= {row[0] for row in connection.execute("SELECT source_id FROM genes")}
    assert sources == {name for name, content in TREE.items() if content and not name.startswith("binary")}
    again = rig.build()
    assert (again.code, again.of("worker_started"), again.summary["skipped"]) == (0, [], verified["genes"])
