"""Which shard goes to which slot."""

from __future__ import annotations

from helix_crawl_otel.fleet.placement import MOST_LOSSES, PlacedShard, Placement, SlotKind


def placement(*shards: PlacedShard, slots: int = 1, on_card: bool = True) -> Placement:
    """With so many slots `s0`, `s1`."""
    found = Placement(shards, lease_seconds=60.0)
    for number in range(slots):
        found.add_slot(f"s{number}", SlotKind.HOME, on_card=on_card, now=0.0)
    return found


def of_sizes(*sizes: int) -> list[PlacedShard]:
    """Shards `a`, `b`, of these sizes."""
    return [PlacedShard(chr(97 + n), size) for n, size in enumerate(sizes)]


def given(found: Placement, slot: str) -> list[str]:
    """What a slot is given when it asks until it gets nothing."""
    names = []
    while (shard := found.next_for(slot)) is not None:
        names.append(shard.name)
    return names


def test_large_ones_go_first_and_the_next_is_copied_meanwhile() -> None:
    """As long as there are enough for all."""
    found = placement(*of_sizes(1, 5, 3, 4, 2))
    assert given(found, "s0") == ["b", "d"]


def test_at_the_end_each_goes_to_a_slot_that_is_free() -> None:
    """None waits behind a long one while a slot has nothing to do."""
    found = placement(*of_sizes(9, 8, 1), slots=2)
    assert given(found, "s0") == ["a"]
    assert given(found, "s1") == ["b"]
    found.end("b")
    assert given(found, "s1") == ["c"]


def test_a_demoted_one_waits_for_the_cpu_beside_cards() -> None:
    """And the card takes the next one."""
    found = placement(*of_sizes(9, 8))
    assert given(found, "s0") == ["a"]
    found.demote("a")
    assert found.wants_spares == 1
    assert given(found, "s0") == ["b"]
    found.add_slot("cpu", SlotKind.SPARE, on_card=False, now=0.0)
    assert found.wants_spares == 0
    assert given(found, "cpu") == ["a"]
    found.end("a")
    found.end("b")
    assert found.is_over


def test_without_cards_any_slot_takes_a_demoted_one() -> None:
    """It is on the CPU anyway."""
    found = placement(PlacedShard("a", 1, is_demoted=True), PlacedShard("b", 2), on_card=False)
    assert found.wants_spares == 0
    assert found.next_for("s0") is found.shards["a"]


def test_the_shards_of_a_lost_slot_wait_again() -> None:
    """The one that was only copied has lost nothing."""
    found = placement(*of_sizes(5, 4, 3, 2))
    assert given(found, "s0") == ["a", "b"]
    assert [shard.name for shard in found.lose_slot("s0")] == ["a", "b"]
    assert (found.shards["a"].losses, found.shards["b"].losses) == (1, 0)
    found.add_slot("s1", SlotKind.HOME, on_card=True, now=0.0)
    assert given(found, "s1") == ["a", "b"]


def test_a_shard_that_ends_its_slots_has_failed_unless_it_comes_further() -> None:
    """Else it would end one after the other for ever."""
    found = placement(*of_sizes(1), slots=0)
    for number in range(2 * MOST_LOSSES):
        found.add_slot(f"n{number}", SlotKind.HOME, on_card=True, now=0.0)
        assert given(found, f"n{number}") == ["a"]
        if number == MOST_LOSSES - 2:
            found.came_further("a")
        (lost,) = found.lose_slot(f"n{number}")
        if lost.is_over:
            break
    assert number == 2 * MOST_LOSSES - 3
    assert found.is_over


def test_a_lease_is_over_when_nothing_was_heard_for_so_long() -> None:
    """Any word renews it."""
    found = placement(*of_sizes(1), slots=2)
    found.heard("s0", 50.0)
    assert found.silent(60.0) == []
    assert found.silent(60.5) == ["s1"]


def test_ten_thousand_shards_are_given_out_in_order() -> None:
    """Of equal size by name, so that two runs do the same."""
    found = placement(*(PlacedShard(f"{n:05}", 10) for n in range(10_000)))
    seen = []
    while (shard := found.next_for("s0")) is not None:
        seen.append(shard.name)
        found.end(shard.name)
    assert seen == sorted(seen)
    assert len(seen) == 10_000
    assert found.is_over
