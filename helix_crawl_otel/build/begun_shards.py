"""What is cut off in the shards of a run that say something of it, so that those which say nothing get the same.

An application that was stopped half-way leaves shards with vectors beside others without. A run that took each for
itself would end with vectors of two caps. So before the first gene of a shard that says nothing is encoded, those that
do are looked at: what an earlier run has noted, then what vectors show, then what the application has written down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from helix_crawl_otel.build.cap_search import MOST_LETTERS, Sample, explained, least_cosine
from helix_crawl_otel.encoders.precision import LEAST_COSINE
from helix_crawl_otel.encoders.truncation import TruncatedEncoder, Truncation
from helix_crawl_otel.formats import count
from helix_crawl_otel.shards.app_provenance import VectorProvenance
from helix_crawl_otel.shards.errors import StoreError
from helix_crawl_otel.shards.inspect import spoken

__all__ = ["LOOKED_AT", "BegunShards", "as_said", "others_shown", "truncation_shown"]

NAMED = 3
"""Shards of one truncation that a message names."""

LOOKED_AT = 256
"""Genes of a shard, spread over it, of which a few are encoded: to find the longest of a whole file all of it is read.
"""


class BegunShards:
    """The shards of a run that say something, looked at once, when it is asked for.

    Args:
        paths: Their files.
        lock_seconds: How long to wait for one that another program holds.

    Threads: one.
    """

    def __init__(self, paths: Sequence[str] = (), lock_seconds: float = 0.0) -> None:
        self._paths = [Path(path) for path in paths]
        self._lock_seconds = lock_seconds
        self._made: dict[Truncation, list[Path]] | None = None

    @property
    def known(self) -> Mapping[Truncation, Sequence[Path]]:
        """What `made` has found out; nothing before it was asked."""
        return self._made or {}

    def of(self, truncation: Truncation) -> str:
        """The names of shards that are cut off so, a few; empty for none."""
        return _named(self.known.get(truncation, []))

    def is_alone(self, path: Path) -> bool:
        """Whether there is no other one than this."""
        return all(one == path for one in self._paths)

    def made(self, encoder: TruncatedEncoder) -> Mapping[Truncation, Sequence[Path]]:
        """With what they are made, each with its shards. Where a cap would not show, it is that of the others.

        Args:
            encoder: Of the run; it cuts off as before when this returns.
        """
        if self._made is None:
            before = encoder.truncation
            try:
                self._made = self._looked_at(encoder)
            finally:
                encoder.truncate(before)
        return self._made

    def _looked_at(self, encoder: TruncatedEncoder) -> dict[Truncation, list[Path]]:
        made: dict[Truncation, list[Path]] = {}
        said: dict[Truncation, list[Path]] = {}
        uncut: list[tuple[Path, Sample, Truncation]] = []
        for path in self._paths:
            with suppress(StoreError):  # its own worker says what is wrong with it
                identity, provenance, genes = spoken(path, self._lock_seconds, LOOKED_AT)
                if identity is not None:
                    made.setdefault(Truncation.of(identity), []).append(path)
                    continue
                if provenance.cap is not None:
                    said.setdefault(as_said(provenance, encoder), []).append(path)
                if not genes:
                    continue
                sample = _telling(genes)
                size = len(sample[0][2]) // 4
                whole = Truncation(None, size if size < encoder.own_dim else None)
                encoder.truncate(whole)
                if (least_cosine(sample, encoder) or 0.0) >= LEAST_COSINE:
                    uncut.append((path, sample, whole))
                    continue
                found = explained(sample, genes, encoder, [one.max_chars for one in (*made, *said)])
                if found is not None and found.explains and found.is_truncation:
                    made.setdefault(found.truncation, []).append(path)
        # What agrees without a cap may be too short to show one.
        for path, texts, whole in uncut:
            fits = (one for one in (made or said) if self._is_made_by(encoder, one, whole, texts))
            made.setdefault(next(fits, whole), []).append(path)
        return made or said

    def _is_made_by(self, encoder: TruncatedEncoder, one: Truncation, whole: Truncation, sample: Sample) -> bool:
        if one.dim not in (None, whole.dim):
            return False
        encoder.truncate(one)
        return (least_cosine(sample, encoder) or 0.0) >= LEAST_COSINE


def as_said(provenance: VectorProvenance, encoder: TruncatedEncoder) -> Truncation:
    """What an application's table says is cut off. A dimension that this model cannot have is another model's."""
    dim = provenance.dim if provenance.dim is not None and provenance.dim < encoder.own_dim else None
    return Truncation(provenance.cap, dim)


def truncation_shown(cut: Truncation, *verbs: str) -> str:
    """In words.

    Args:
        cut: What is shown.
        verbs: What is done with the letters, and with the numbers; none for a list.
    """
    encoded, kept = (f" are {verb}" for verb in verbs) if verbs else ("", "")
    letters = f"the first {cut.max_chars:,} letters" if cut.max_chars else "all letters"
    what = [f"{letters} of each text{encoded}"]
    what += [f"the first {cut.dim} numbers of each vector{kept}"] if cut.dim else []
    return " and ".join(what)


def others_shown(made: Mapping[Truncation, Sequence[Path]]) -> str:
    """What shards are made with, in words."""
    return ", and ".join(f"{truncation_shown(one)} in {_named(paths)}" for one, paths in made.items())


def _named(paths: Sequence[Path]) -> str:
    more = f" and {count(len(paths) - NAMED, 'other')}" if len(paths) > NAMED else ""
    return ", ".join(map(str, paths[:NAMED])) + more


def _telling(sample: Sample) -> Sample:
    """The shortest, which tells whether the model is theirs, and the longest that may be encoded."""
    short = [row for row in sample if len(row[1]) <= MOST_LETTERS] or sample[:1]
    by_length = sorted(short, key=lambda row: len(row[1]))
    return list(dict.fromkeys([by_length[0], *by_length[-3:]]))
