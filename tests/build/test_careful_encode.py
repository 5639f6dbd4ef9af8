"""Which gene fails, found by trying it alone; and whether it is the gene or the encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from helix_crawl_otel.build.careful_encode import (
    CheckedEncoder,
    EncoderBroken,
    EncodingFailed,
    LacksMemory,
    encode_carefully,
)
from helix_crawl_otel.encoders.base import BadVector, EncoderLayer
from helix_crawl_otel.encoders.hashing import HashingEncoder
from helix_crawl_otel.shards.genes import PendingGene

FULL = RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
GONE = RuntimeError("CUDA error: unspecified launch failure")


class Scripted(EncoderLayer):
    """An encoder that first asks a function what to raise."""

    def __init__(self, fails: Callable[[Sequence[str]], Exception | None]) -> None:
        super().__init__(HashingEncoder())
        self.fails = fails
        self.tried: list[list[str]] = []

    def encode(self, texts: Sequence[str]) -> list[bytes]:
        """See `Encoder`."""
        self.tried.append(list(texts))
        error = self.fails(texts)
        if error is not None:
            raise error
        return super().encode(texts)


class Work:
    """One batch, and what came of it."""

    def __init__(self, fails: Callable[[Sequence[str]], Exception | None], texts: str, *, leaves: bool = False) -> None:
        self.encoder = Scripted(fails)
        self.lacked: list[str] = []
        self.leaves = leaves
        self.committed: list[str] = []
        self.blamed: dict[str, tuple[str, bool]] = {}
        self.released = 0
        genes = [PendingGene(number, text, text) for number, text in enumerate(texts)]
        encode_carefully(genes, self._encode, self._commit, self._blame, self._release, self._lack)

    def _encode(self, genes: Sequence[PendingGene]) -> list[bytes]:
        return self.encoder.encode([gene.content for gene in genes])

    def _commit(self, vectors: Sequence[tuple[PendingGene, bytes]]) -> None:
        self.committed += [gene.gene_id for gene, _ in vectors]

    def _lack(self, reason: str) -> None:
        self.lacked.append(reason)
        if self.leaves:
            raise LacksMemory(reason)

    def _blame(self, gene: PendingGene, reason: str, *, lacks_memory: bool) -> None:
        self.blamed[gene.gene_id] = reason, lacks_memory

    def _release(self) -> None:
        self.released += 1


def bad(texts: Sequence[str], letters: str, least: int = 1) -> Exception | None:
    """Vectors of these letters are bad in a batch of so many."""
    found = [index for index, text in enumerate(texts) if text in letters]
    return BadVector(found, "it has length nan") if found and len(texts) >= least else None


def test_bad_vectors_are_tried_alone_and_the_good_ones_together() -> None:
    """One more encode for the good ones, however many are bad."""
    work = Work(lambda texts: bad(texts, "bdf"), "abcdefgh")
    assert work.encoder.tried == [list("abcdefgh"), list("acegh"), ["b"], ["d"], ["f"]]
    assert sorted(work.committed) == list("acegh")
    assert work.blamed == dict.fromkeys("bdf", ("it has length nan", False))


def test_what_is_bad_only_beside_others_is_blamed_for_nothing() -> None:
    """Alone each has its vector."""
    work = Work(lambda texts: bad(texts, "bd", least=2), "abcd")
    assert sorted(work.committed) == list("abcd")
    assert work.blamed == {}


def test_a_batch_without_memory_is_halved_after_a_release() -> None:
    """Down to what fits; nobody is blamed."""
    work = Work(lambda texts: FULL if len(texts) > 2 else None, "abcdefgh")
    assert work.committed == list("abcdefgh")
    assert (work.released, work.blamed) == (3, {})


def test_an_eighth_without_memory_is_told_before_it_is_halved() -> None:
    """Once for each part of that size; who is told may leave the batch to another process, and keeps what is done."""
    work = Work(lambda texts: FULL if len(texts) > 1 and "p" in texts else None, "abcdefghijklmnop")
    assert work.committed == list("abcdefghijklmnop")
    assert work.lacked == [f"out of memory with 2 of the 16 genes of a batch: {FULL}"]
    assert Work(lambda texts: FULL if len(texts) > 2 else None, "abcdefghijklmnop").lacked == []
    with pytest.raises(LacksMemory):
        Work(lambda texts: FULL if len(texts) > 1 and "p" in texts else None, "abcdefghijklmnop", leaves=True)


def test_one_gene_without_memory_is_tried_twice() -> None:
    """The second time after a release; the others are encoded."""
    work = Work(lambda texts: FULL if "c" in texts else None, "abcd")
    assert work.encoder.tried[-3:] == [["c"], ["c"], ["d"]]
    assert work.committed == ["a", "b", "d"]
    assert work.blamed == {"c": (f"out of memory with a batch of one: {FULL}", True)}


def test_a_gene_that_fits_after_a_release_is_blamed_for_nothing() -> None:
    """The cache was full of blocks of other sizes."""
    fails = iter([FULL])
    work = Work(lambda texts: next(fails, None), "a")
    assert (work.committed, work.blamed, work.released) == (["a"], {}, 1)


def test_an_exception_is_the_genes_that_raises_it_alone() -> None:
    """Found by halving."""
    work = Work(lambda texts: ValueError("no such token\nsee the manual") if "f" in texts else None, "abcdefgh")
    assert sorted(work.committed) == list("abcdegh")
    assert work.blamed == {"f": ("ValueError: no such token", False)}


def test_a_dead_context_ends_it_at_once() -> None:
    """Nothing is halved, nobody is blamed: every other call would fail as well."""
    with pytest.raises(EncoderBroken, match="the device fails: CUDA error: unspecified launch failure") as caught:
        Work(lambda texts: GONE, "abcd")
    assert caught.value.is_device


# -- is the encoder sound? --------------------------------------------------------------------------------------------


def test_a_sound_encoder_proves_itself() -> None:
    """With what it has encoded before; without that, with what has a vector, or with a plain sentence."""
    scripted = Scripted(lambda texts: bad(texts, "x"))
    encoder = CheckedEncoder(scripted)
    encoder.encode(["a longer text", "short"])
    encoder.check("why")
    assert scripted.tried[-1] == ["short"]
    fresh = CheckedEncoder(Scripted(lambda texts: None if texts == ["known"] else ValueError("a static model")))
    fresh.check("why", lambda: ["known"])
    CheckedEncoder(HashingEncoder()).check("why")


def test_one_that_was_sound_and_is_no_more_is_broken() -> None:
    """By no fault of its device: a fresh process may do better."""
    scripted = Scripted(lambda texts: None)
    encoder = CheckedEncoder(scripted)
    encoder.encode(["a"])
    scripted.fails = lambda texts: ValueError("it is confused")
    with pytest.raises(EncoderBroken, match="the encoder fails, also for what it has encoded before: why") as caught:
        encoder.check("why")
    assert not caught.value.is_device


def test_one_that_never_encoded_anything_has_failed() -> None:
    """No other process would do better."""
    with pytest.raises(EncodingFailed, match="the encoder fails for every text: why"):
        CheckedEncoder(Scripted(lambda texts: bad(texts, str(texts)))).check("why", lambda: ["known"])


def test_a_check_that_meets_the_device_or_memory_says_so() -> None:
    """It is neither the gene nor the encoder then."""
    with pytest.raises(EncoderBroken) as caught:
        CheckedEncoder(Scripted(lambda texts: GONE)).check("why")
    assert caught.value.is_device
    with pytest.raises(LacksMemory, match="out of memory for a text of 44 characters"):
        CheckedEncoder(Scripted(lambda texts: FULL)).check("why")


def test_a_known_text_for_which_there_is_no_memory_proves_nothing() -> None:
    """A shorter one may do."""
    scripted = Scripted(lambda texts: FULL if len(texts[0]) > 100 else None)
    CheckedEncoder(scripted).check("why", lambda: ["long " * 50])
    assert len(scripted.tried) == 2


@pytest.mark.parametrize("vectors", [[], [b"1234"], [b"1234"] * 2])
def test_vectors_are_counted(vectors: list[bytes]) -> None:
    """An encoder that makes too few, too many or others than it says is no sound one."""

    class Wrong(EncoderLayer):
        def encode(self, texts: Sequence[str]) -> list[bytes]:
            return vectors

    encoder = CheckedEncoder(Wrong(HashingEncoder()))
    with pytest.raises(ValueError, match=r"the encoder made \d vectors of .* for 1 texts; accepted: one of 1024 bytes"):
        encoder.encode(["a"])
    with pytest.raises(EncodingFailed):
        encoder.check("why")
