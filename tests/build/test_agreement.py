"""Stored vectors are compared with what this encoder makes of the same texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from helix_crawl_otel.build.agreement import adopt_or_refuse, check_other_device
from helix_crawl_otel.encoders.base import BadVector, EncoderLayer
from helix_crawl_otel.encoders.hashing import HashingEncoder
from helix_crawl_otel.shards.errors import EncoderRefused
from helix_crawl_otel.shards.store import ShardStore
from tests.shards.shards import every_pending, made, opened


class Other(EncoderLayer):
    """An encoder on another device, which makes no vector of some texts, or of all."""

    def __init__(self, bad: str = "", device: str = "cuda:0") -> None:
        super().__init__(HashingEncoder())
        self.device = device
        self._bad = bad

    def encode(self, texts: Sequence[str]) -> list[bytes]:
        """See `Encoder`."""
        assert len(texts) == 1, "there may be memory for no more"
        if self._bad in texts[0]:
            raise BadVector([0], "it has length nan")
        return super().encode(texts)


def filled(path: Path, *, length: int = 1024) -> ShardStore:
    """A shard whose genes have vectors of our encoder, cut or not."""
    store = opened(made(path, ("1", "2", "3", "4")))
    encoder = HashingEncoder()
    for gene in every_pending(store):
        store.commit([(gene, encoder.encode([gene.content])[0][:length])])
    return store


def test_vectors_of_another_length_are_anothers(tmp_path: Path) -> None:
    """Also where this encoder makes no vector of any text that was looked at."""
    with filled(tmp_path / "a.db", length=512) as store:
        for encoder in (Other(), Other(bad="in none of them")):
            with pytest.raises(EncoderRefused):
                adopt_or_refuse(store, encoder)


def test_nothing_is_adopted_where_nothing_can_be_compared(tmp_path: Path) -> None:
    """Vectors of unknown origin stay somebody else's; with what it made itself on another device it may go on."""
    with filled(tmp_path / "a.db") as store:
        with pytest.raises(EncoderRefused, match="say nothing of their encoder"):
            adopt_or_refuse(store, Other())
        store.note_session("cpu", {}, 1, 8)
        check_other_device(store, Other())


def test_a_gene_without_a_vector_now_is_left_out_of_the_comparison(tmp_path: Path) -> None:
    """The others tell enough."""
    with filled(tmp_path / "a.db") as store:
        (text, *_) = [content for _, content, _ in store.sample(4)]
        adopt_or_refuse(store, Other(bad=text))
