"""A card that breaks, or that has no memory, costs a worker: no gene, no shard and no run."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from tests.build.rig import COMMAND, SECONDS, Done, Rig, prose, wait_for

CARD = ("--fault", "card:limit_gib=12,warmup_seconds=0", "--fault", "clock:rate=40", "--batch-size", "8")


@pytest.fixture
def three(rig: Rig) -> Rig:
    """Three shards of thirty passages; one passage of the second has a word of its own."""
    for shard in "abc":
        rig.write({f"{shard}/{n:02}.txt": f"Passage {n} of {shard}. {prose(n, 1)}" for n in range(30)})
    return rig.write({"b/11.txt": f"Passage of the gremlin. {prose(11, 1)}"})


def starts(done: Done) -> list[tuple[str, str]]:
    """Reason and device of each worker."""
    return [(started["reason"], started["device"]) for started in done.of("worker_started")]


def is_whole(rig: Rig, done: Done) -> bool:
    """Every gene has a vector, and nothing was quarantined on the way."""
    found = rig.verify()
    counts = found["vectors"], found["missing"], found["quarantined"], found["code"]
    return (done.code, done.of("quarantined"), counts) == (0, [], (90, 0, 0, 0))


def notes(done: Done) -> str:
    """What was said on the way."""
    return "\n".join(note["text"] for note in done.of("note"))


def test_a_dead_context_costs_one_worker(three: Rig) -> None:
    """From batch 3 on each encode of the first process fails: it ends, says why, and the next one does all the rest."""
    done = three.build("--batch-size", "8", "--fault", "device:batch=3,worker=1", "--fault", "clock:rate=40")
    assert is_whole(three, done), (done.errors, done.events[-3:])
    assert starts(done) == [("first", "cpu"), ("crash", "cpu")]
    (crash,) = done.of("crash")
    assert crash["why"].startswith("the device fails: CUDA error: unspecified launch failure")


@pytest.mark.slow
def test_a_card_that_breaks_under_every_worker(three: Rig) -> None:
    """Each worker gets two batches done before the context is gone: progress is progress, the build ends whole."""
    done = three.build(*CARD, "--fault", "device:batch=3")
    assert is_whole(three, done), (done.errors, done.events[-3:])
    assert all(reason in ("first", "crash") for reason, _ in starts(done))


@pytest.mark.slow
def test_a_card_on_which_nothing_can_be_encoded(three: Rig) -> None:
    """After three restarts without a gene the shard is finished on the CPU, and said why; so is each of the others."""
    done = three.build(*CARD, "--fault", "device:batch=1")
    assert is_whole(three, done), (done.errors, done.events[-3:])
    one = [("crash", "cuda:0")] * 3 + [("demote", "cpu")]
    assert starts(done) == [("first", "cuda:0"), *one, ("resume", "cuda:0"), *one, ("resume", "cuda:0"), *one]
    assert "shard a: its worker failed again and again: the device fails" in notes(done)


@pytest.mark.slow
def test_a_gene_that_breaks_the_card(three: Rig) -> None:
    """A device-side assert: its shard goes to the CPU, where it gets its vector, and the next is on the card again."""
    done = three.build(*CARD, "--fault", "device:text=gremlin")
    assert is_whole(three, done), (done.errors, done.events[-3:])
    assert starts(done)[-2:] == [("demote", "cpu"), ("resume", "cuda:0")]


def test_no_memory_for_one_gene_on_the_card(three: Rig) -> None:
    """Released and tried again, then by a fresh process, then on the CPU; the reason says what the card holds."""
    done = three.build(*CARD, "--fault", "oom:text=gremlin,card=1")
    assert is_whole(three, done), (done.errors, done.events[-3:])
    assert starts(done) == [("first", "cuda:0"), ("recycle", "cuda:0"), ("demote", "cpu"), ("resume", "cuda:0")]
    assert done.of("crash") == []
    assert "shard b: out of memory with a batch of one: CUDA out of memory" in notes(done)
    assert "GiB of 12.0 GiB in use); another worker tries again on cuda:0" in notes(done)
    assert "it is finished on the CPU" in notes(done)


def test_no_memory_for_the_model(three: Rig) -> None:
    """Waited for three times, then the CPU for that shard; the next one tries the card once."""
    hog = three.folder / "hog"
    hog.touch()
    done = three.build(*CARD, "--fault", f"hog:file={hog}")
    assert is_whole(three, done), (done.errors, done.events[-3:])
    last = [("resume", "cuda:0"), ("demote", "cpu")]
    assert starts(done) == [("first", "cuda:0"), *[("recycle", "cuda:0")] * 3, ("demote", "cpu"), *last, *last]
    assert done.of("crash") == []
    assert "shard a: out of memory while the model was loaded: CUDA out of memory" in notes(done)


@pytest.mark.slow
def test_memory_that_comes_back_for_the_model(three: Rig) -> None:
    """The program that held it has ended meanwhile: everything is encoded on the card."""
    hog = three.folder / "hog"
    hog.touch()
    with three.started(three.build_command(*CARD, "--fault", f"hog:file={hog}")) as process:
        wait_for(process, "note")
        hog.unlink()
        done = three.ended(process)
    assert is_whole(three, done), (done.errors, done.events[-3:])
    assert {started["device"] for started in done.of("worker_started")} == {"cuda:0"}


@pytest.mark.slow
def test_no_memory_anywhere(three: Rig) -> None:
    """Not for the model on the CPU either: each shard fails for that reason and no exit code, and goes on later."""
    hog = three.folder / "hog"
    hog.touch()
    done = three.build("--fault", f"hog:file={hog}", "--fault", "clock:rate=400")
    assert done.code == 1
    assert len(done.summary["failed"]) == 3
    assert all("out of memory while the model was loaded" in why for why in done.summary["failed"].values())
    hog.unlink()
    assert is_whole(three, three.build())


def test_bad_vectors_of_a_card_are_made_on_the_cpu(three: Rig) -> None:
    """The others of the shard stay on the card; it is said how many are not, and why."""
    done = three.build(*CARD, "--fault", "nan:text=gremlin,card=1")
    assert is_whole(three, done), (done.errors, done.events[-3:])
    assert starts(done) == [("first", "cuda:0"), ("demote", "cpu"), ("resume", "cuda:0")]
    assert "shard b: 1 gene cannot be encoded on cuda:0: the encoder's vector has length nan" in notes(done)


@pytest.mark.slow
def test_a_gene_that_is_bad_on_the_cpu_as_well_is_quarantined(three: Rig) -> None:
    """Once both have failed with it alone; nothing else is lost."""
    done = three.build(*CARD, "--fault", "nan:text=gremlin")
    assert (done.code, done.summary["quarantined"]) == (1, 1)
    assert three.verify()["vectors"] == 89


def test_a_vector_that_is_bad_only_beside_others(three: Rig) -> None:
    """Short texts beside long ones: each alone they are fine, and nothing is quarantined, in one process."""
    done = three.build("--batch-size", "12", "--fault", "nan:text=Passage 1,genes=2")
    assert is_whole(three, done), (done.errors, done.events[-3:])
    assert len(starts(done)) == 1


@pytest.mark.parametrize("rest", [24, 0])
def test_bad_genes_in_a_row_are_no_fault_of_the_encoder(rig: Rig, rest: int) -> None:
    """Six texts without a known word, and as many others or none: one run quarantines the six and encodes the rest."""
    rig.write({f"a/bad-{n}.txt": f"Gremlin {n}." for n in range(6)})
    rig.write({f"a/good-{n:02}.txt": f"Passage {n}. {prose(n, 1)}" for n in range(rest)})
    done = rig.build("--batch-size", "8", "--fault", "nan:text=Gremlin")
    assert (done.code, done.summary["quarantined"], done.summary["failed"]) == (1, 6, {})
    found = rig.verify()
    assert (found["vectors"], found["quarantined"], found["missing"]) == (rest, 6, 0)


def test_an_encoder_that_fails_for_every_text_quarantines_nothing(three: Rig) -> None:
    """It is the encoder: the shards fail with its reason, each at once, and are whole after a run with a sound one."""
    done = three.build("--fault", "nan:text= ")
    assert (done.code, done.of("quarantined"), len(starts(done))) == (1, [], 1)
    assert all(why.startswith("the encoder fails for every text") for why in done.summary["failed"].values())
    assert is_whole(three, three.build())


@pytest.mark.slow
def test_a_card_that_gives_bad_vectors_for_everything(three: Rig) -> None:
    """Whatever it is given: each shard is finished on the CPU, and no gene of it is to blame."""
    done = three.build(*CARD, "--fault", "nan:text= ,card=1")
    assert is_whole(three, done), (done.errors, done.events[-3:])
    assert "shard a: on cuda:0 the encoder fails for every text: the encoder's vector has length nan" in notes(done)


SHORT_OF_MEMORY = """
import os, sys
def patch():
    from helix_crawl_otel.encoders.hashing import HashingEncoder
    encode = HashingEncoder.encode
    def limited(self, texts):
        if os.path.exists({hog!r}) and max(map(len, texts)) > {most}:
            raise MemoryError("std::bad_alloc")
        return encode(self, texts)
    HashingEncoder.encode = limited
if "helix_crawl_otel.build.worker" in sys.orig_argv:
    import atexit, threading, builtins
    imported = builtins.__import__
    def importing(name, *more):
        module = imported(name, *more)
        if name.startswith("helix_crawl_otel.encoders.load") and "helix_crawl_otel.encoders.hashing" in sys.modules:
            builtins.__import__ = imported
            patch()
        return module
    builtins.__import__ = importing
"""


@pytest.mark.slow
def test_a_passing_lack_of_memory_on_the_cpu_condemns_nobody(rig: Rig) -> None:
    """Room for short texts only: the long ones go on lacking a vector, with the reason, and get it later."""
    rig.write({f"a/{n:02}.txt": prose(n, 1) if n % 2 else f"A short one, {n}." for n in range(40)})
    hog = rig.folder / "hog"
    hog.touch()
    site = rig.with_site(SHORT_OF_MEMORY.format(hog=str(hog), most=200))
    done = rig.run(rig.build_command("--batch-size", "8", "--fault", "clock:rate=40"), SECONDS, **site)
    assert (done.code, done.of("quarantined")) == (1, [])
    assert "there is no memory for 20 genes, each alone: out of memory" in done.summary["failed"]["a"]
    assert (rig.verify()["vectors"], rig.verify()["missing"]) == (20, 20)
    hog.unlink()
    done = rig.run(rig.build_command("--batch-size", "8"), SECONDS, **site)
    assert (done.code, rig.verify()["vectors"]) == (0, 40)


@pytest.mark.slow
def test_memory_that_comes_back_while_genes_are_tried_again(rig: Rig) -> None:
    """What was encoded after that proves nothing of those that were tried before: they get their vectors as well."""
    rig.write({f"a/{n:02}.txt": prose(n, 1) if n % 2 else f"A short one, {n}." for n in range(40)})
    hog = rig.folder / "hog"
    hog.touch()
    gives_up = f"""
tries = []
def given_up(texts):
    tries.append(texts)
    if tries.count([{prose(27, 1)!r}]) > 2 and os.path.exists({str(hog)!r}):
        os.unlink({str(hog)!r})
"""
    code = SHORT_OF_MEMORY.replace("            raise", "            given_up(texts)\n            raise")
    site = rig.with_site(code.format(hog=str(hog), most=200) + gives_up)
    done = rig.run(rig.build_command("--batch-size", "8", "--fault", "clock:rate=40"), SECONDS, **site)
    assert not hog.exists()
    assert (done.code, done.of("quarantined"), rig.verify()["vectors"]) == (0, [], 40)


def test_bad_genes_at_the_head_of_a_shard_wait_for_one_that_is_good(rig: Rig) -> None:
    """Also where the control text is bad as well, as for a static model of another language."""
    rig.write({f"a/0-bad-{n}.txt": f"Gremlin {n}." for n in range(6)})
    rig.write({f"a/1-good-{n:02}.txt": f"Passage {n}. {prose(n, 1)}" for n in range(24)})
    faults = ("--fault", "nan:text=Gremlin", "--fault", "nan:text=quick brown fox")
    done = rig.build("--batch-size", "4", *faults)
    assert (done.code, done.summary["quarantined"], done.summary["failed"]) == (1, 6, {})
    assert rig.verify()["vectors"] == 24


@pytest.mark.slow
def test_genes_with_numbers_for_ids_are_found_too(rig: Rig) -> None:
    """The app's may be integers: the one that kills its workers is quarantined, the others have their vectors."""
    rig.out.mkdir()
    path = rig.out / "app.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE genes (gene_id INTEGER PRIMARY KEY, content TEXT)")
        rows = [(n, f"Passage {n}. {'gremlin' if n == 7 else ''}") for n in range(20)]
        connection.executemany("INSERT INTO genes VALUES (?, ?)", rows)
    command = [*COMMAND, "backfill", str(path), *rig.options, "--json", "--batch-size", "8", "--fault"]
    done = rig.run([*command, "poison:text=gremlin", "--fault", "clock:rate=40"])
    assert (done.code, done.summary["quarantined"]) == (1, 1)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT gene_id FROM helix_crawl_quarantine").fetchall() == [(7,)]
        assert connection.execute("SELECT count(embedding_dense_v2) FROM genes").fetchone() == (19,)
