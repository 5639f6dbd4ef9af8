"""Text beyond what an encoder reads: a build leaves none, and what others have cut is counted and told.

The hashing encoder reads 512 words and signs of a text.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from helix_crawl_otel.corpus.cut import ChunkRule
from helix_crawl_otel.encoders.hashing import HashingEncoder
from helix_crawl_otel.shards.inspect import Unread, count_unread, salvage
from tests.build.rig import COMMAND, Rig, prose, run_here
from tests.corpus.trees import taken_in

DENSE = "1;2;3;4;5;" * 100
"""1,000 characters that are as many words and signs."""


def contents(shard: Path) -> list[str]:
    """Of all genes."""
    with closing(sqlite3.connect(shard)) as database:
        return [row[0] for row in database.execute("SELECT content FROM genes ORDER BY rowid")]


def told(rig: Rig) -> list[str]:
    """What workers have written into their logs of it."""
    logs = sorted((rig.out / ".helix-crawl").glob("worker-*.log"))
    lines = [line for log in logs for line in log.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if "longer than the model reads" in line]


def test_a_build_cuts_so_that_all_is_read(rig: Rig) -> None:
    """Two texts that differ in their last letters only get different vectors, and nothing has to be told."""
    rig.write({"a/one.txt": DENSE[:-2] + "x;", "a/two.txt": DENSE[:-2] + "y;", "a/prose.txt": prose(1, 3)})
    done = rig.build()
    assert done.code == 0, done.errors
    assert done.summary["unread"] == {"genes": 0, "chars": 0, "unread": 0, "share": 0.0}
    passages = contents(rig.out / "a.db")
    assert max(HashingEncoder().token_counts(passages)) <= 512
    assert "".join(sorted(passages, key=len)[-1:]) == prose(1, 3)
    assert sum(map(len, passages)) == 2 * len(DENSE) + len(prose(1, 3))
    with closing(sqlite3.connect(rig.out / "a.db")) as database:
        (vectors,) = database.execute("SELECT count(DISTINCT embedding_dense_v2) FROM genes").fetchone()
    assert vectors == len(set(passages))
    again = rig.build()
    assert (again.code, again.of("model_loading")) == (0, [])


def of_before(rig: Rig) -> None:
    """Make the shard one that an earlier version has cut and encoded, which wrote no rule down."""
    shard = rig.out / "a.db"
    taken_in(shard, rig.source, rule=ChunkRule(version=1))
    with closing(sqlite3.connect(shard)) as database, database:
        database.execute("DELETE FROM helix_crawl_meta WHERE key = 'rule'")
        database.execute("DROP TABLE helix_crawl_unread")
        rows = database.execute("SELECT gene_id, content FROM genes").fetchall()
        vectors = HashingEncoder().encode([content for _, content in rows])
        values = [(vector, gene) for (gene, _), vector in zip(rows, vectors, strict=True)]
        database.executemany("UPDATE genes SET embedding_dense_v2 = ? WHERE gene_id = ?", values)
        identity = '{"model": "hashing", "revision": "1", "dim": 256, "normalised": true, "max_tokens": 512}'
        database.execute("INSERT INTO helix_crawl_meta VALUES ('encoder', ?)", (identity,))


def test_a_shard_of_before_goes_on_by_its_rule_and_says_what_is_not_read(rig: Rig) -> None:
    """Its vectors stay, a new file is cut as its others, and `--reencode` cuts all of it anew."""
    rig.write({"a/one.txt": DENSE, "a/prose.txt": prose(1, 3)}).out.mkdir()
    of_before(rig)
    whole = rig.build()
    assert (whole.code, whole.of("model_loading"), whole.of("note")) == (0, [], [])
    rig.write({"a/two.txt": DENSE})
    done = rig.build()
    assert done.code == 0, done.errors
    [note] = done.of("note")
    assert "1 shard cut by an earlier version, which counted no tokens, go on so; --reencode cuts them" in note["text"]
    assert done.summary["encoded"] == 1
    assert done.summary["unread"] == {"genes": 1, "chars": 1000, "unread": 488, "share": 0.488}
    assert sorted(map(len, contents(rig.out / "a.db"))) == sorted([1000, 1000, len(prose(1, 3))])
    anew = rig.build("--reencode")
    assert anew.code == 0, anew.errors
    assert anew.summary["unread"]["genes"] == 0
    assert max(HashingEncoder().token_counts(contents(rig.out / "a.db"))) <= 512
    assert prose(1, 3) in contents(rig.out / "a.db")
    assert salvage(rig.out / "a.db").rule is not None
    assert (rig.build("--reencode").of("model_loading"), rig.verify()["code"]) == ([], 0)


def app_shard(path: Path, texts: list[Any]) -> None:
    """As the Helix/Cymatix app writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE genes (gene_id TEXT PRIMARY KEY, content TEXT, embedding_dense_v2 BLOB)")
        rows = [(f"g{n}", text) for n, text in enumerate(texts)]
        database.executemany("INSERT INTO genes (gene_id, content) VALUES (?, ?)", rows)


def test_genes_that_are_given_are_counted(rig: Rig) -> None:
    """`backfill` cannot cut them: how many are longer, and how much of them is in no vector, in one line of the
    summary, in `--json` and in the log; and again where all is done already.
    """
    shard = rig.out / "given.db"
    app_shard(shard, [DENSE * 2, DENSE, prose(1, 3), "short", None])
    command = [*COMMAND, "backfill", str(shard), *rig.options]
    done = rig.run([*command, "--json"])
    assert done.code == 0, done.errors
    assert done.summary["unread"] == {"genes": 2, "chars": 3000, "unread": 1488 + 488, "share": 0.6587}
    assert len(told(rig)) == 1
    name = shard.with_suffix("").as_posix()
    assert f"shard {name}: 2 genes are longer than the model reads; 66 % of their text is in no vector" in told(rig)[0]
    again = rig.run([*command, "--json"])
    assert (again.of("model_loading"), again.summary["unread"]) == ([], done.summary["unread"])
    assert count_unread(shard) == Unread(2, 3000, 1976)
    assert rig.verify(shard)["unread"] == done.summary["unread"]
    assert "2 genes are longer than the model reads; 66 %" in run_here("verify", str(shard))[1]
    with closing(sqlite3.connect(shard)) as database, database:
        database.execute("DELETE FROM genes WHERE gene_id = 'g0'")
    assert count_unread(shard) == Unread(1, 1000, 488)
    assert str(count_unread(shard)) == "1 gene is longer than the model reads; 49 % of its text is in no vector"
