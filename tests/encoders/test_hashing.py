"""The encoder without a model: for tests, so what it promises is what other tests rely on."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix_crawl_otel.encoders.hashing import HashingEncoder
from helix_crawl_otel.shards.vectors import cosine, unpack
from tests.rules.fresh import loaded_by, roots

EXPECTED = {13: 0.123091, 36: 0.123091, 58: 0.123091, 66: -0.246183, 89: 0.246183, 92: 0.246183, 125: 0.246183}
EXPECTED |= {132: -0.123091, 172: -0.123091, 196: 0.123091, 199: 0.123091, 214: -0.123091, 215: 0.246183}
EXPECTED |= {227: -0.123091, 230: -0.738549, 242: -0.123091}


@given(st.lists(st.text(max_size=200), min_size=1, max_size=5))
def test_every_text_has_a_vector_of_length_one(texts: list[str]) -> None:
    """Whatever is in it."""
    encoder = HashingEncoder()
    vectors = encoder.encode(texts)
    assert [len(vector) for vector in vectors] == [4 * int(str(encoder.identity["dim"]))] * len(texts)
    for vector in vectors:
        assert math.hypot(*unpack(vector)) == pytest.approx(1.0, abs=1e-5)


@given(st.lists(st.text(max_size=50), min_size=1, max_size=8))
def test_a_vector_does_not_depend_on_its_batch(texts: list[str]) -> None:
    """So that a digest is the same however batches were cut."""
    encoder = HashingEncoder()
    assert encoder.encode(texts) == [encoder.encode([text])[0] for text in texts]


def test_the_bytes_are_the_same_on_every_machine_and_in_every_version() -> None:
    """A stored shard is continued by another Python on another computer."""
    [vector] = HashingEncoder().encode(["The quick brown fox jumps over the lazy dog."])
    values = unpack(vector)
    found = {index: round(value, 6) for index, value in enumerate(values) if value}
    assert found == EXPECTED
    assert vector == b"".join(float_bytes(value) for value in values)


def float_bytes(value: float) -> bytes:
    """Little-endian float32, by another way than the product's."""
    return struct.pack("<f", value)


def test_passages_that_share_words_are_near_each_other() -> None:
    """Nearest neighbours make sense."""
    encoder = HashingEncoder()
    question, near, far = encoder.encode(
        ["how do I rotate the backup key", "To rotate the backup key, stop the service.", "Lunch is served at noon."]
    )
    assert cosine(question, near) > 0.4
    assert cosine(question, near) > cosine(question, far) + 0.2


def test_word_order_and_case() -> None:
    """Case does not count, the order of words does."""
    encoder = HashingEncoder()
    one, upper, other = encoder.encode(["dog bites man", "Dog Bites Man", "man bites dog"])
    assert one == upper
    assert 0.5 < cosine(one, other) < 0.999


def test_work_grows_with_the_longest_text_and_with_the_batch() -> None:
    """What a batch costs is passages times the longest, up to the limit."""
    encoder = HashingEncoder()
    assert encoder.work(["a" * 50, "b"]) == 20.0
    assert encoder.work(["a" * 50, "b", "c", "d"]) == 40.0
    assert encoder.work(["x" * 10**6]) == 512.0
    assert encoder.work([""]) == 1.0


def test_it_needs_neither_torch_nor_numpy(tmp_path: Path) -> None:
    """It runs where nothing else is installed."""
    loaded = loaded_by(
        "from helix_crawl_otel.encoders.load import load_encoder; load_encoder('hashing', 'cpu').encode(['text'])",
        tmp_path,
    )
    assert "helix_crawl_otel.encoders.hashing" in loaded
    assert roots(loaded) & {"torch", "numpy", "sentence_transformers", "opentelemetry"} == set()
