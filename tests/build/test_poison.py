"""Genes and encoders that fail: each costs no more than it has to, and the run goes on."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from tests.build.rig import SECONDS, Rig, prose, wait_for

FAST = ("--fault", "clock:rate=20")
"""A backoff of a second takes a twentieth of one."""


def write(rig: Rig, poisonous: int = 17) -> Rig:
    """Thirty passages in one shard, one of them with a word of its own; and another shard."""
    rig.write({f"a/{n:02}.txt": f"Passage {n}. {'gremlin ' if n == poisonous else ''}{prose(n, 1)}" for n in range(30)})
    return rig.write({"b/other.txt": prose(99, 4)})


@pytest.mark.parametrize("fault", ["poison:text=gremlin", "oom:text=gremlin", "nan:text=gremlin"])
def test_one_poisonous_gene_is_quarantined_alone(rig: Rig, fault: str) -> None:
    """Exit code 1, all the others have their vectors."""
    whole = write(rig).undisturbed()
    done = rig.build("--batch-size", "4", "--fault", fault, *FAST)
    assert done.code == 1, (done.errors, done.events[-3:])
    assert done.summary["quarantined"] == 1
    assert done.summary["failed"] == {}
    (told,) = done.of("quarantined")
    assert done.summary["quarantines"] == [{key: told[key] for key in ("shard", "gene", "source", "begins", "reason")}]
    verified = rig.verify()
    assert verified["code"] == 1
    assert (verified["vectors"], verified["quarantined"]) == (whole["genes"] - 1, 1)
    with closing(sqlite3.connect(rig.out / "a.db")) as connection:
        found = connection.execute("SELECT content FROM genes WHERE embedding_dense_v2 IS NULL").fetchall()
    assert len(found) == 1
    assert "gremlin" in found[0][0]


DIES_BEFORE_ITS_BATCH = """
import os, sys
if "helix_crawl_otel.build.worker" in sys.orig_argv:
    from helix_crawl_otel.encoders.hashing import HashingEncoder
    work = HashingEncoder.work
    def counted(self, texts):
        if any("gremlin" in text for text in texts):
            os._exit(3)
        return work(self, texts)
    HashingEncoder.work = counted
"""


def test_a_gene_whose_tokens_cannot_be_counted_is_quarantined_alone(rig: Rig) -> None:
    """Its worker dies before its batch begins: the next ones say what they are about to look at."""
    whole = write(rig).undisturbed()
    command = rig.build_command("--batch-size", "4", *FAST)
    done = rig.run(command, SECONDS, **rig.with_site(DIES_BEFORE_ITS_BATCH))
    assert done.code == 1, (done.errors, done.events[-3:])
    assert (done.summary["quarantined"], done.summary["failed"]) == (1, {})
    assert rig.verify()["vectors"] == whole["genes"] - 1


@pytest.mark.parametrize(
    "fault",
    ["nan:text=gremlin", *(pytest.param(f"{kind}:text=gremlin", marks=pytest.mark.slow) for kind in ("poison", "oom"))],
)
def test_a_quarantined_gene_is_tried_again_when_asked(rig: Rig, fault: str) -> None:
    """It stays left out, and that is said each time; tried again it fails as before, once, or has its vector."""
    whole = write(rig).undisturbed()
    assert rig.build("--batch-size", "8", "--fault", fault, *FAST).code == 1
    verified = rig.verify()
    assert rig.build().code == 1  # it is still left out, and that is still said
    again = rig.build("--retry-quarantined", "--fault", fault, *FAST)  # and fails as before, once
    assert (again.code, again.summary["failed"], len(again.of("quarantined"))) == (1, {}, 1)
    assert rig.verify() == verified
    assert rig.build("--retry-quarantined").code == 0
    assert rig.verify() == whole


def test_out_of_memory_halves_the_batch(rig: Rig) -> None:
    """Batches that are too big are halved until they fit; no gene is to blame, no worker is replaced."""
    whole = write(rig).undisturbed()
    done = rig.build("--batch-size", "16", "--fault", "oom:genes=3")
    assert done.code == 0, done.errors
    assert len(done.of("worker_started")) == 1
    assert rig.verify() == whole


def test_memory_that_is_not_there_for_any_gene_fails_the_shard(rig: Rig) -> None:
    """It is not the genes: none is quarantined, a fresh process has tried, and the run goes on with the next shard."""
    whole = write(rig).undisturbed()
    done = rig.build("--fault", "oom:text=Passage", *FAST)
    assert done.code == 1
    assert "there is no memory for 30 genes, each alone: out of memory" in done.summary["failed"]["a"]
    assert (done.summary["shards"]["done"], done.of("quarantined")) == (1, [])
    assert [started["reason"] for started in done.of("worker_started")] == ["first", "recycle"]
    assert rig.build().code == 0
    assert rig.verify() == whole


@pytest.mark.parametrize(("code", "why"), [(41, "exit code 41"), (0, "as if it were done, with work left")])
def test_a_worker_that_ends_whenever_it_starts(rig: Rig, code: int, why: str) -> None:
    """Three restarts without a gene, then the shard has failed; the next has a budget of its own. Exit code 1."""
    whole = write(rig).undisturbed()
    site = rig.with_site(
        f"import os, sys\nif 'helix_crawl_otel.build.worker' in sys.orig_argv:\n    os._exit({code})\n"
    )
    done = rig.run(rig.build_command(*FAST), SECONDS, **site)
    assert done.code == 1
    assert len(done.of("worker_started")) == 8
    assert all(why in reason for reason in done.summary["failed"].values())
    assert sorted(done.summary["failed"]) == ["a", "b"]
    assert rig.build().code == 0
    assert rig.verify() == whole


@pytest.mark.parametrize("fault", ["hang:batch=1,worker=1", "wedge:batch=1,worker=1"])
def test_a_worker_that_hangs_in_its_first_batch_is_ended(rig: Rig, fault: str) -> None:
    """No baseline and no memory probe: after half an hour of the run's clock rule 11 ends it, another goes on."""
    whole = write(rig).undisturbed()
    done = rig.build("--fault", fault, "--fault", "clock:rate=600")
    assert done.code == 0, (done.errors, done.events[-3:])
    assert done.of("worker_ended")[0]["why"] == "a batch hung and its worker was ended"
    assert done.of("action") == []
    assert rig.verify() == whole


def test_a_worker_that_is_killed_when_its_work_is_done(rig: Rig) -> None:
    """It had finished all it was given: no crash of anything, and the run ends well."""
    write(rig)
    site = rig.with_site(
        "import atexit, os, sys\nif 'helix_crawl_otel.build.worker' in sys.orig_argv:\n"
        "    atexit.register(os.kill, os.getpid(), 9)\n"  # on Windows that ends it with code 9
    )
    with rig.started(rig.build_command(), **site) as process:
        assert wait_for(process, "worker_ended")["code"] in (9, -9)
        done = rig.ended(process)
    assert done.code == 0, (done.errors, done.events)
    assert done.of("crash") == []
    assert rig.verify()["code"] == 0
