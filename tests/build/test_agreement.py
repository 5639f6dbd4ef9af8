"""Stored vectors are compared with what this encoder makes of the same texts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from helix_crawl_otel.build.agreement import adopt_or_refuse, claim_as_made, dtype_wish
from helix_crawl_otel.build.begun_shards import BegunShards
from helix_crawl_otel.encoders.base import BadVector, EncoderLayer
from helix_crawl_otel.encoders.hashing import HASHING_IDENTITY, HashingEncoder
from helix_crawl_otel.encoders.precision import DtypeWish
from helix_crawl_otel.encoders.truncation import TruncatedEncoder, TruncationWish
from helix_crawl_otel.link.messages import WorkerSettings
from helix_crawl_otel.shards.batch_plan import BatchPlan
from helix_crawl_otel.shards.errors import EncoderRefused
from helix_crawl_otel.shards.standing import provenance
from helix_crawl_otel.shards.store import ShardStore
from helix_crawl_otel.shards.vectors import pack, unpack
from tests.shards.shards import every_pending, made, opened


class Other(EncoderLayer):
    """An encoder on another device, which makes no vector of some texts, or of all."""

    def __init__(
        self, bad: str = "", device: str = "cuda:0", dtype: str = "float32", off: float = 0.0, *, apart: bool = False
    ) -> None:
        super().__init__(HashingEncoder())
        self.device, self.dtype = device, dtype
        self._bad, self._off = bad, off
        if apart:
            self.identity = {**self.identity, "dtype": dtype}

    def encode(self, texts: Sequence[str]) -> list[bytes]:
        """See `Encoder`."""
        assert len(texts) == 1, "there may be memory for no more"
        if self._bad in texts[0]:
            raise BadVector([0], "it has length nan")
        return [self._turned(unpack(vector)) for vector in super().encode(texts)]

    def _turned(self, values: Sequence[float]) -> bytes:
        moved = [value + self._off for value in values]
        return pack(value / math.hypot(*moved) for value in moved)


def filled(path: Path, *, length: int = 1024) -> ShardStore:
    """A shard whose genes have vectors of our encoder, cut or not."""
    store = opened(made(path, ("1", "2", "3", "4")))
    encoder = HashingEncoder()
    for gene in every_pending(store):
        store.commit([(gene, encoder.encode([gene.content])[0][:length])])
    return store


def vectors_of(store: ShardStore) -> int:
    """Genes that have one."""
    return BatchPlan(store).look().vectors


def test_vectors_of_another_length_are_anothers(tmp_path: Path) -> None:
    """Also where this encoder makes no vector of any text that was looked at."""
    with filled(tmp_path / "a.db", length=512) as store:
        for encoder in (Other(), Other(bad="in none of them")):
            with pytest.raises(EncoderRefused):
                adopt_or_refuse(store, TruncatedEncoder(encoder), TruncationWish(dim=256), BegunShards())


def test_nothing_is_adopted_where_nothing_can_be_compared(tmp_path: Path) -> None:
    """Vectors of unknown origin stay somebody else's; with what it made itself on another device it may go on."""
    with filled(tmp_path / "a.db") as store:
        with pytest.raises(EncoderRefused, match="say nothing of their encoder"):
            adopt_or_refuse(store, TruncatedEncoder(Other()), TruncationWish(), BegunShards())
        store.note_session("cpu", {}, 1, 8)
        claim_as_made(store, Other(), reencode=False)


def test_a_gene_without_a_vector_now_is_left_out_of_the_comparison(tmp_path: Path) -> None:
    """The others tell enough."""
    with filled(tmp_path / "a.db") as store:
        (text, *_) = [content for _, content, _ in store.sample(4)]
        adopt_or_refuse(store, TruncatedEncoder(Other(bad=text)), TruncationWish(), BegunShards())


FAR = 0.01
"""What is added to each number of a vector, that its cosine with what it was be less than 0.9999."""


def sound(device: str = "cuda:0", dtype: str = "float32", off: float = 0.0, *, apart: bool = False) -> Other:
    """One that makes a vector of every text."""
    return Other("in none of them", device, dtype, off, apart=apart)


def begun(path: Path, encoder: Other, *, session: bool = True) -> ShardStore:
    """A shard of which all but one gene were encoded so."""
    store = opened(made(path, ("1", "2", "3", "4", "5")))
    claim_as_made(store, encoder, reencode=False)
    if session:
        store.note_session(encoder.device, {}, 1, 8, encoder.dtype)
    for gene in every_pending(store)[:4]:
        store.commit([(gene, encoder.encode([gene.content])[0])])
    return store


class TestOtherPrecision:
    """What a worker makes beside what is there already."""

    CARD = sound(dtype="float16")
    APART = sound(dtype="bfloat16", off=FAR, apart=True)
    CPU = sound(device="cpu")

    def test_what_agrees_is_mixed(self, tmp_path: Path) -> None:
        """The shard stays of whom it was."""
        with begun(tmp_path / "a.db", self.CARD) as store:
            for encoder in (self.CPU, sound(), sound(dtype="bfloat16", apart=True)):
                claim_as_made(store, encoder, reencode=False)
            assert (store.identity(), vectors_of(store)) == (HASHING_IDENTITY, 4)

    @pytest.mark.parametrize(
        ("first", "second", "made"),
        [
            (CARD, APART, "on cuda in float16"),
            (APART, CPU, "on cuda in bfloat16"),
            (APART, sound(dtype="float16"), "on cuda in bfloat16"),
            (CPU, APART, "on cpu in float32"),
            (sound(dtype="float16"), sound(off=FAR), "on cuda in float16"),
        ],
    )
    def test_what_does_not_agree_is_refused(self, tmp_path: Path, first: Other, second: Other, made: str) -> None:
        """With what it was before; with `reencode` all of it is encoded again, once."""
        with begun(tmp_path / "a.db", first) as store:
            with pytest.raises(EncoderRefused) as caught:
                claim_as_made(store, second, reencode=False)
            assert f"stored in this shard, made {made} (cosine 0." in str(caught.value)
            assert "give --dtype as before, check the libraries' versions, or encode" in str(caught.value)
            assert (store.identity(), vectors_of(store)) == (first.identity, 4)
            claim_as_made(store, second, reencode=True)
            assert (store.identity(), vectors_of(store), store.pending_count()) == (second.identity, 0, 5)
            [gene, *_] = every_pending(store)
            store.commit([(gene, second.encode([gene.content])[0])])
            for again in (True, False):
                claim_as_made(store, second, reencode=again)
            assert vectors_of(store) == 1

    def test_a_shard_without_a_vector_is_of_the_first_that_makes_one(self, tmp_path: Path) -> None:
        """A worker has claimed it and gone."""
        with opened(made(tmp_path / "a.db", ("1", "2"))) as store:
            for encoder in (self.CPU, self.APART, self.CARD):
                claim_as_made(store, encoder, reencode=False)
                store.note_session(encoder.device, {}, 1, 8, encoder.dtype)
                assert store.identity() == encoder.identity

    def test_a_worker_takes_what_the_shard_was_begun_in(self, tmp_path: Path) -> None:
        """On a device of its kind; on the CPU full precision, but where vectors stand apart."""

        def wish(device: str, asked: str = "auto") -> DtypeWish:
            settings = WorkerSettings("hashing", device, 8, None, 0, [], 1, device, dtype=asked)
            return dtype_wish(store, settings, is_anew=False)

        with begun(tmp_path / "a.db", self.CARD) as store:
            assert (wish("cuda:1"), wish("cpu")) == (DtypeWish("auto", "float16", is_apart=False), DtypeWish())
            assert wish("cpu", "float16") == DtypeWish("float16", None, is_apart=False)
            store.note_session("cuda:0", {}, 1, 8, "bfloat16")
            assert wish("cuda:0").stored == "bfloat16"
        with begun(tmp_path / "b.db", self.APART) as store:
            assert wish("cpu") == wish("cuda:0") == DtypeWish("auto", "bfloat16", is_apart=True)
        with opened(made(tmp_path / "c.db", ("1",))) as store:
            assert wish("cuda:0") == DtypeWish()

    def test_a_shard_of_an_older_version_goes_on_in_full(self, tmp_path: Path) -> None:
        """It has written nothing down, and nothing is compared where the device is the same."""
        with begun(tmp_path / "a.db", sound(), session=False) as store:
            columns = "device, versions, threads, batch_size, at"
            with store.writing() as connection:
                connection.execute("ALTER TABLE helix_crawl_sessions DROP COLUMN dtype")
                connection.execute(f"INSERT INTO helix_crawl_sessions ({columns}) VALUES ('cuda:0', '{{}}', 1, 8, '')")
        assert provenance(tmp_path / "a.db").dtypes == ()
        with opened(tmp_path / "a.db", 2) as store:
            settings = WorkerSettings("hashing", "cuda:0", 8, None, 0, [], 1, "cuda:0")
            assert dtype_wish(store, settings, is_anew=False) == DtypeWish("auto", "", is_apart=False)
            claim_as_made(store, Other(), reencode=False)
            store.note_session("cuda:0", {}, 1, 8)
        assert provenance(tmp_path / "a.db").dtypes == ("float32",)
