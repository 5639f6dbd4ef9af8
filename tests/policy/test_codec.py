"""The whole state as plain JSON and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

import pytest

from helix_crawl_otel.policy.codec import decode, encode
from helix_crawl_otel.policy.model import ActionKind
from helix_crawl_otel.policy.settings import Settings
from helix_crawl_otel.policy.state import PolicyState
from tests.policy.timeline import FULL, Job, copied


class Colour(Enum):
    """An enum of no other use."""

    RED = "red"


@dataclass
class Inner:
    """A nested value."""

    x: float = 1.0


@dataclass
class Outer:
    """One field of each kind that the codec knows."""

    number: float = 2.0
    count: int = 3
    flag: bool = True
    text: str = "t"
    maybe: float | None = None
    colour: Colour = Colour.RED
    pair: tuple[float, str] = (1.0, "p")
    many: list[Inner] = field(default_factory=lambda: [Inner(), Inner(2.0)])
    named: dict[str, Inner] = field(default_factory=lambda: {"a": Inner(3.0)})
    perhaps: Inner | None = None
    either: float | int | str | None = 4
    mapped: Mapping[str, float | int] = field(default_factory=lambda: {"a": 1, "b": 1.0})


def test_every_kind_of_field_comes_back() -> None:
    """Equal, and of the same types."""
    for value in (Outer(), Outer(maybe=1.5, perhaps=Inner(9.0), flag=False, many=[], named={})):
        decoded = decode(Outer, json.loads(json.dumps(encode(value))))
        assert decoded == value
        assert [type(number) for number in (decoded.either, *decoded.mapped.values())] == [int, int, float]


def test_an_integer_is_a_number() -> None:
    """JSON writes 2.0 as it likes."""
    decoded = decode(Inner, {"x": 2})
    assert isinstance(decoded.x, float)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("number", "2", r"Outer.number is '2'; accepted: a finite number"),
        ("number", False, r"Outer.number is False; accepted: a finite number"),
        ("count", 3.0, r"Outer.count is 3.0; accepted: int"),
        ("count", True, r"Outer.count is True; accepted: int"),
        ("flag", 1, r"Outer.flag is 1; accepted: bool"),
        ("text", 5, r"Outer.text is 5; accepted: str"),
        ("maybe", "x", r"Outer.maybe is 'x'; accepted: a finite number"),
        ("colour", "blue", r"Outer.colour is 'blue'; accepted: one of \['red'\]"),
        ("colour", ["red"], r"Outer.colour is \['red'\]; accepted: one of"),
        ("pair", [1.0], r"Outer.pair is \[1.0\]; accepted: a list of 2"),
        ("pair", [1.0, 2.0], r"Outer.pair\[1\] is 2.0; accepted: str"),
        ("many", [{"x": 1.0}, {"y": 1.0}], r"Outer.many\[1\] is .*; accepted: an object with x"),
        ("named", {"a": {"x": None}}, r"Outer.named\['a'\].x is None; accepted: a finite number"),
        ("perhaps", [], r"Outer.perhaps is \[\]; accepted: an object"),
        ("either", [], r"Outer.either is \[\]; accepted: "),
        ("either", True, r"Outer.either is True; accepted: "),
        ("mapped", {"a": None}, r"Outer.mapped\['a'\] is None; accepted: "),
    ],
)
def test_what_does_not_fit_its_annotation_is_refused(name: str, value: object, message: str) -> None:
    """With the path, the value and what is accepted."""
    with pytest.raises(ValueError, match=message):
        decode(Outer, {**encode(Outer()), name: value})


def test_what_a_later_version_has_added_is_passed_over() -> None:
    """Also inside: what this one knows of a file is good."""
    content = encode(Outer())
    content["later"] = {"x": []}
    content["many"][0]["later"] = 1
    assert decode(Outer, content) == Outer()


def test_the_whole_state_comes_back() -> None:
    """In the middle of everything: an open episode, a pending action, a batch in flight, readings."""
    job = Job(Settings(inflight=True), obeys=False).warmed()
    job.memory = FULL
    job.stall(400.0)
    state = job.policy.state
    assert state.shards["a"].ladder.pending is not None
    assert state.inflight
    assert state.memory["cuda:0"].peaks
    assert state.shards["a"].can_take == list(ActionKind)[1:]
    assert copied(state) == state


def test_an_empty_state_comes_back() -> None:
    """The one of a policy that has seen nothing."""
    assert copied(PolicyState()) == PolicyState()
