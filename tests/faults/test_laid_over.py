"""What each fault does to an encoder, and what a modelled card does, by a clock that stands still."""

from __future__ import annotations

import pytest

from helix_crawl_otel.encoders.base import BadVector, is_out_of_memory
from helix_crawl_otel.encoders.hashing import HashingEncoder
from helix_crawl_otel.faults.card import CardFault, CardsCpu
from helix_crawl_otel.faults.faults import apply_faults, parse_fault

TEXTS = ["one passage", "another passage"]


class Clock:
    """Moves when somebody sleeps."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        """Sleep."""
        self.seconds += seconds


def took(clock: Clock, encoder: CardFault | CardsCpu) -> float:
    """Seconds of one batch."""
    before = clock()
    assert encoder.encode(TEXTS) == HashingEncoder().encode(TEXTS)
    return clock() - before


def test_a_card_slows_down_when_it_is_full_and_a_fresh_one_does_not() -> None:
    """Its memory climbs with each batch; the vectors are the encoder's own; a release after a spill does not help."""
    clock = Clock()
    values = {"fragment_gib": 2.0, "warmup_seconds": 0.0}
    card = CardFault(HashingEncoder(), values, clock, clock.sleep)
    times = [took(clock, card) for _ in range(6)]
    assert times[5] > 20 * times[0]
    assert (card.memory().fraction or 0) > 0.92
    card.release()
    assert took(clock, card) > 20 * times[0]
    assert took(clock, CardFault(HashingEncoder(), values, clock, clock.sleep)) == pytest.approx(times[0])


def test_a_card_refuses_what_is_beyond_the_cap() -> None:
    """In one piece, as torch does: halving is the worker's. A cache makes room, a leak does not, a fresh one has it."""
    clock = Clock()
    values = {"fragment_gib": 2.0, "leak_gib": 0.5, "warmup_seconds": 0.0}
    card = CardFault(HashingEncoder(), values, clock, clock.sleep, 0.95)
    times = [took(clock, card) for _ in range(10)]
    assert max(times) < times[0] + 1  # the cache is given back instead of spilling
    card.encode(TEXTS)
    with pytest.raises(RuntimeError, match="CUDA out of memory") as caught:
        card.encode(TEXTS)
    assert is_out_of_memory(caught.value)
    assert (card.memory().cap_fraction or 0) <= 1
    took(clock, CardFault(HashingEncoder(), values, clock, clock.sleep, 0.95))


def test_a_worker_that_was_sent_to_the_cpu_is_off_the_card() -> None:
    """It is as fast as the encoder, unless the CPU's speed is given, and has no card's memory to show."""
    clock = Clock()
    faults = [parse_fault("card:fragment_gib=20")]
    encoder = apply_faults(HashingEncoder(), faults, 1, clock, clock.sleep, is_demoted=True)
    for _ in range(3):
        encoder.encode(TEXTS)
    assert clock() == 0.0
    assert encoder.memory().fraction is None
    slow = CardsCpu(HashingEncoder(), {"cpu_tokens_per_second": 1.0}, clock, clock.sleep)
    assert took(clock, slow) == pytest.approx(HashingEncoder().work(TEXTS))


def test_slow_begins_at_its_batch_and_strikes_its_worker() -> None:
    """`batch` is the first that is slow; another worker is not struck."""
    clock = Clock()
    faults = [parse_fault("slow:seconds=3,batch=2,worker=1")]
    first = apply_faults(HashingEncoder(), faults, 1, clock, clock.sleep)
    times = []
    for _ in range(3):
        before = clock()
        first.encode(TEXTS)
        times.append(clock() - before)
    assert times == [0.0, 3.0, 3.0]
    before = clock()
    apply_faults(HashingEncoder(), faults, 2, clock, clock.sleep).encode(TEXTS * 3)
    assert clock() == before


def test_out_of_memory_and_a_bad_vector() -> None:
    """By number of genes, and by a text; what is not struck is encoded."""
    clock = Clock()
    encoder = apply_faults(HashingEncoder(), [parse_fault("oom:genes=1")], 1, clock, clock.sleep)
    with pytest.raises(RuntimeError, match="out of memory") as caught:
        encoder.encode(TEXTS)
    assert is_out_of_memory(caught.value)
    assert encoder.encode(TEXTS[:1]) == HashingEncoder().encode(TEXTS[:1])
    encoder = apply_faults(HashingEncoder(), [parse_fault("nan:text=another")], 1, clock, clock.sleep)
    with pytest.raises(BadVector) as bad:
        encoder.encode(TEXTS)
    assert bad.value.indices == (1,)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("gremlin", "accepted: card, wedge"),
        ("slow:batch=0", "accepted for batch: an integer from 1"),
        ("slow:seconds=-1", "accepted for seconds: a number >= 0"),
        ("clock:rate=0", "accepted for rate"),
        ("poison", "accepted: poison:text="),
        ("card:spill_power=0", "spill_power"),
        ("card:colour=1", "accepted after card: fragment_gib="),
        ("wedge:seconds=9999999", "a week"),
    ],
)
def test_what_is_refused(text: str, says: str) -> None:
    """With what is accepted."""
    with pytest.raises(ValueError, match=says.replace("(", r"\(")):
        parse_fault(text)
