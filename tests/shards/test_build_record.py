"""The record of a build: what a hand has changed in it is refused with a sentence, whatever it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helix_crawl_otel.shards.build_record import BuildRecord, RecordUnusable, read_record, record_path, write_record

RECORD = BuildRecord({"a": "/trees/a", "b": "/trees/b"}, {"a/one": "a_one.db", "b/.": "b_.db"}, "hashing", ("--x",))


def _shard(name: str, file: str) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["shards"].append({"name": name, "file": file})


def _source(label: str, path: str) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["sources"].append({"label": label, "path": path})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_shard("c/two", "two.db"), "'c/two' is of none of its sources"),
        (_shard("two", "two.db"), "'two' is of none of its sources"),
        (_shard("a/one", "two.db"), "two of its shards are 'a/one'"),
        (_shard("a/two", "a_one.db"), "two of its files are 'a_one.db'"),
        (_shard("a/two", ".."), "'..' is no name of a file"),
        (_shard("a/two", "."), "'.' is no name of a file"),
        (_shard("a/two", ""), "'' is no name of a file"),
        (_shard("a/two", "up/two.db"), "'up/two.db' is no name of a file"),
        (_source("a", "/trees/c"), "two of its sources are 'a'"),
        (_source("c", ""), "'' is no path of a source"),
        (_source("c", f"/trees{chr(0)}c"), "is no path of a source"),
        (lambda content: content.update(sources=[]), "is of none of its sources"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    """Nothing could be built by it: `build` makes it anew from the shards, and `verify` says so."""
    write_record(tmp_path, RECORD)
    assert read_record(tmp_path) == RECORD
    content = json.loads(record_path(tmp_path).read_text(encoding="utf-8"))
    change(content)
    record_path(tmp_path).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(RecordUnusable) as raised:
        read_record(tmp_path)
    assert said in str(raised.value)


@pytest.mark.parametrize("text", ["null", "[]", "3", '"text"'])
def test_other_json_is_no_record(tmp_path: Path, text: str) -> None:
    """It is said in words of its own, not in Python's."""
    write_record(tmp_path, RECORD)
    record_path(tmp_path).write_text(text, encoding="utf-8")
    with pytest.raises(RecordUnusable, match="it is no JSON object"):
        read_record(tmp_path)
