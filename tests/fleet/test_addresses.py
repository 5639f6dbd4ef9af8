"""SRC and --out by their addresses: from bucket to bucket, as from folder to folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from helix_crawl_otel.cli import main
from helix_crawl_otel.exit_codes import DONE, USAGE
from helix_crawl_otel.fleet.places import open_storage
from tests.fleet.bucket import BUCKET, Bucket, served
from tests.programs import require_installed, require_module

SECONDS = 300.0


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """A store, and the way to it in the environment."""
    require_module("obstore", "obstore")
    require_module("moto", "moto[server,s3]")
    require_installed("ray", "ray")
    with served() as bucket:
        for name, value in bucket.environ().items():
            monkeypatch.setenv(name, value)
        yield bucket


def typed(folder: Path, *words: str) -> dict[str, object]:
    """What a command tells at its end, as JSON; it has to be done."""
    command = [sys.executable, "-m", "helix_crawl_otel", *words, "--json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == DONE, (done.stdout, done.stderr)
    last: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return last


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.xdist_group("local ray")
def test_a_build_from_bucket_to_bucket_is_one_machines(bucket: Bucket, tmp_path: Path) -> None:
    """While puts fail and answers are lost; the next one goes on from another folder, and finds all complete."""
    source = open_storage(f"s3://{BUCKET}/notes")
    for folder in ("alpha", "beta b#%ü"):
        for number in range(6):
            path = tmp_path / "notes" / folder / f"n {number}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"Passage {number} of {folder}.\n\n{'Some words follow. ' * 40}", encoding="utf-8")
            source.write(f"{folder}/{path.name}", path)
    common = ("--model", "hashing", "--no-metrics")
    typed(tmp_path, "build", "notes", "--out", "one", *common)
    bucket.faults.extend(["503", "lost", "", "lost", "503", "", "lost"] * 4)
    build = ("build", f"s3://{BUCKET}/notes", "--out", f"s3://{BUCKET}/two", "--ray", "local", *common)
    typed(tmp_path, *build)
    assert not bucket.faults or len(bucket.faults) < 20, "faults have happened"
    bucket.faults.clear()
    storage = open_storage(f"s3://{BUCKET}/two")
    (tmp_path / "two" / ".helix-crawl").mkdir(parents=True)
    for name in (*storage.list(), ".helix-crawl/build.json"):
        storage.get(name, tmp_path / "two" / name)
    one, two = (typed(tmp_path, "verify", name) for name in ("one", "two"))
    assert two["digest"] == one["digest"]
    assert two["genes"] == two["vectors"] == one["genes"]
    left = {name for name, _ in storage.walk() if not name.startswith(".helix-crawl/nodes/")}
    assert {name for name in left if "driver" in name or "probe" in name or "token" in name} == set()
    again = typed(Path(os.sep), *build)
    assert "complete before" in json.dumps(again)
    assert open_storage(f"s3://{BUCKET}/notes").list() == {}, "nothing was put beside the sources"


@pytest.mark.fleet
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["build", "s3://b/a", "--out", "o"], "s3://b/a is given without --ray; accepted: a folder, or --ray ADDRESS"),
        (["build", "a", "--out", "s3://b/o"], "s3://b/o is given without --ray; accepted: a folder, or --ray ADDRESS"),
        (["build", "ftp://b/a", "--out", "o"], "SRC is an address with ftp://, which is not known; accepted: a folder"),
        (["backfill", "s3://b/a"], "s3://b/a is given without --ray; accepted: a folder or a shard, or --ray ADDRESS"),
    ],
)
def test_an_address_is_refused_where_it_cannot_be(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sentence: what was given, what is accepted."""
    require_module("obstore", "obstore")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "of-the-test")
    assert main(words) == USAGE
    assert sentence in capsys.readouterr().err
