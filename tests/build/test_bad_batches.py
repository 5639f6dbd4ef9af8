"""Which batch killed its worker."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from helix_crawl_otel.build.batches import pieces
from helix_crawl_otel.policy.bad_batches import MOST_UNPROVEN, BadBatches, CrashOutcome
from helix_crawl_otel.shards.genes import PendingGene
from helix_crawl_otel.supervise.rules import MOST_NARROWED


def test_one_crash_is_chance() -> None:
    """The batch is tried again as it is."""
    bad_batches = BadBatches()
    assert not bad_batches.crashed("g", 64, "why").narrows
    assert bad_batches.limits() == {}


def test_the_second_crash_cuts_the_batch_and_a_commit_ends_the_suspicion() -> None:
    """A small one into single genes; what was encoded after all is suspected no longer."""
    bad_batches = BadBatches()
    bad_batches.crashed("g", 5, "why")
    assert bad_batches.crashed("g", 5, "why").narrows
    assert bad_batches.limits() == {"g": 1}
    bad_batches.committed("g", 5)
    assert bad_batches.limits() == {}
    assert not bad_batches.crashed("g", 5, "why").narrows


def test_a_single_gene_that_kills_twice_is_quarantined_with_its_reason() -> None:
    """The reason says how its worker ended."""
    bad_batches = BadBatches()
    bad_batches.crashed("g", 1, "it was killed by SIGSEGV")
    assert bad_batches.crashed("g", 1, "it was killed by SIGSEGV").narrows
    assert "SIGSEGV" in bad_batches.quarantined()["g"]
    # Left out, and yet there: the crash budget must end it.
    assert not bad_batches.crashed("g", 1, "it was killed by SIGSEGV").narrows


def test_on_a_card_only_the_cpu_can_tell_whether_a_gene_is_to_blame() -> None:
    """Nothing is quarantined; on the CPU it is counted from the beginning."""
    bad_batches = BadBatches()
    bad_batches.crashed("g", 1, "why", is_on_card=True)
    assert bad_batches.crashed("g", 1, "why", is_on_card=True) == CrashOutcome(narrows=True, needs_cpu=True)
    assert bad_batches.quarantined() == {}
    assert bad_batches.crashed("g", 1, "why") == CrashOutcome(narrows=False)
    assert bad_batches.crashed("g", 1, "why") == CrashOutcome(narrows=True)
    assert list(bad_batches.quarantined()) == ["g"]


def test_gene_after_gene_is_not_the_genes() -> None:
    """Without one that is encoded in between: then the budget is spent, and the shard fails."""
    bad_batches = BadBatches()
    verdicts = [bad_batches.crashed(f"g{n // 2}", 1, "why") for n in range(2 * MOST_UNPROVEN + 4)]
    assert [verdict.narrows for verdict in verdicts[1::2]] == [True] * MOST_UNPROVEN + [False] * 2
    bad_batches.committed("h", 1)
    bad_batches.crashed("i", 1, "why")
    assert bad_batches.crashed("i", 1, "why").narrows


@given(st.data(), st.integers(1, 200), st.integers(1, 64))
def test_the_one_poisonous_gene_is_found_and_no_other(data: st.DataObject, genes: int, size: int) -> None:
    """Wherever it lies, by the worker's own cutting, and with few enough crashes that the budget pays for them."""
    found_after = _deaths(data.draw(st.integers(0, genes - 1)), genes, size)
    assert found_after <= (2 if size == 1 else 4 if size <= 8 else 5)


def test_a_gene_that_ends_its_worker_is_found_after_few_starts() -> None:
    """Each start loads the model, which takes ten seconds and more. Wherever it lies in its batch."""
    assert {_deaths(at, 64, 64) for at in (0, 1, 8, 37, 63)} == {5}


def _deaths(at: int, genes: int, size: int) -> int:
    """How many workers die before the gene at this place is quarantined; no other one is."""
    poison = PendingGene(at, "poison", "")
    left = [poison if n == poison.key else PendingGene(n, str(n), "") for n in range(genes)]
    bad_batches, crashes, deaths = BadBatches(), 0, 0
    while left:
        limits = bad_batches.limits()
        for piece in [piece for start in range(0, len(left), size) for piece in pieces(left[start:][:size], limits)]:
            first = piece[0].gene_id
            if poison in piece:
                crashes, deaths = crashes + 1, deaths + 1
                bad_batches.crashed(first, len(piece), "why")
                assert crashes <= MOST_NARROWED
                break
            bad_batches.committed(first, len(piece))
            left = [gene for gene in left if gene not in piece]
            crashes = 0
        left = [gene for gene in left if gene.gene_id not in bad_batches.quarantined()]
    assert list(bad_batches.quarantined()) == ["poison"]
    return deaths


def test_a_batch_that_keeps_two_workers_from_their_boundary_is_halved() -> None:
    """Once may be the context; half of it may get through. It was no crash, and with a commit it is over."""
    bad_batches = BadBatches()
    bad_batches.stuck("g", 64)
    assert bad_batches.limits() == {}
    bad_batches.stuck("g", 64)
    assert bad_batches.limits() == {"g": 32}
    bad_batches.committed("g", 32)
    bad_batches.stuck("g", 64)
    assert bad_batches.limits() == {}
    assert not bad_batches.crashed("g", 64, "why").narrows
    for _ in range(2):
        bad_batches.stuck("h", 1)
    assert bad_batches.limits() == {"h": 1}
