"""A look at a whole tree before anything is read: its files, their bytes, about how many passages they make, which are
the largest, what is left out and why.

Folders are listed once, for the shards' fingerprints as well. No file is opened but the beginning of a few large ones,
so passages are estimated from bytes; those of files whose names say that they are no text are none.
"""

from __future__ import annotations

import heapq
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from helix_crawl_otel.corpus.decode import taking_rule
from helix_crawl_otel.corpus.filters import pattern_of
from helix_crawl_otel.corpus.tree import (
    LeftOut,
    ShardPlan,
    Source,
    SourceProblem,
    entries_of,
    fingerprint_of,
    in_order,
)

__all__ = ["PASSAGE_BYTES", "LargeFile", "ShardLook", "TreeLook"]

PASSAGE_BYTES = 820
"""Of a passage, in the middle: 823 for Python's standard library, 797 for this package's pages, 960 for plain text in
long paragraphs. A build tells by its own shards what it is there."""

MOST_LARGEST = 5
"""Files that are named."""

DOMINATING_SHARE, DOMINATING_PASSAGES = 0.25, 1000
"""A single file of such a share, and so many passages, is told of: one log of 20 MB was 21,684 of 25,915 genes."""

BEGINNING = 8192
SNIFFED_BYTES, MOST_SNIFFED = 1 << 20, 500
"""Files so large are looked into, as their name need not say what they are; but not so many that it takes long."""

EVERY = 1000
"""Entries between two calls of `progress`."""

_NO_TEXT = re.compile(
    "png|jpe?g|gif|webp|bmp|ico|tiff?|heic|avif|psd|xcf|raw|cr2|nef|mp3|wav|flac|ogg|opus|m4a|aac|wma|mp4|m4v|mov|avi|mkv|"
    "webm|wmv|mpe?g|woff2?|ttf|otf|eot|zip|t?gz|bz2|xz|zst|lz4|7z|rar|tar|jar|war|whl|egg|deb|rpm|apk|dmg|iso|img|vmdk|"
    "qcow2|pdf|docx?|xlsx?|pptx?|od[tsp]|epub|mobi|exe|dll|so|dylib|o|a|lib|obj|py[cod]|class|wasm|db|sqlite3?|mdb|"
    "parquet|feather|arrow|np[yz]|pth?|ckpt|onnx|safetensors|gguf|h5|hdf5|pkl|pickle|bin|dat|pack|idx",
    re.IGNORECASE,
)
"""Ends of names. It is for the estimate alone: what a file is shows when it is read."""


@dataclass(frozen=True, order=True)
class LargeFile:
    """One file.

    Args:
        passages: That it makes, about.
        source: Its id.
        bytes: Its size.
        pattern: Means it alone.
    """

    passages: int
    source: str
    bytes: int
    pattern: str


@dataclass
class ShardLook:
    """What was seen of one shard.

    Args:
        files: Sources.
        bytes: Of them.
        passages: Estimated, until somebody knows better.
        fingerprint: See `tree.fingerprint`; `None` where nothing was cut yet.
        problems: What cannot be read.
    """

    files: int = 0
    bytes: int = 0
    passages: int = 0
    fingerprint: str | None = None
    problems: int = 0

    @property
    def is_empty(self) -> bool:
        """There is nothing to read, nor anything that cannot be read."""
        return not self.files and not self.problems


@dataclass
class TreeLook:
    """What was seen of one tree, or of several.

    Args:
        rule_of: Fingerprint of the rule by which a shard was cut, `None` for one that is not there yet.
        progress: Called now and then: files and bytes so far.
        shards: By name.
        left_out: How many files and folders, by reason and whether they are folders.
        no_text: Files that are taken for none.
        no_text_bytes: Of those.
    """

    rule_of: Callable[[ShardPlan], str | None]
    progress: Callable[[int, int], None] = lambda files, size: None
    shards: dict[str, ShardLook] = field(default_factory=dict)
    left_out: Counter[tuple[str, bool]] = field(default_factory=Counter)
    no_text: int = 0
    no_text_bytes: int = 0
    _largest: list[LargeFile] = field(default_factory=list)
    _seen: int = 0
    _bytes: int = 0
    _sniffed: int = 0

    def take(self, loose: ShardPlan, plans: Sequence[ShardPlan]) -> None:
        """Look at a tree.

        Args:
            loose: Of the files that lie in no folder, see `tree.plan_tree`.
            plans: The shards.
        """
        for plan in plans:
            self.shards[plan.name] = self._look_at(plan)
        if loose.name not in self.shards:
            self._look_at(loose)
        self.progress(self._seen, self._bytes)

    def _look_at(self, plan: ShardPlan) -> ShardLook:
        shard = ShardLook()
        found = list(in_order(plan, self._sources(plan)))
        rule = self.rule_of(plan) if plan.file else None
        shard.fingerprint = None if rule is None else fingerprint_of(found, taking_rule(rule))
        for item in found:
            if isinstance(item, SourceProblem):
                shard.problems += 1
                continue
            shard.files += 1
            shard.bytes += item.size
            shard.passages += self._passages(item, plan.label)
        return shard

    def _sources(self, plan: ShardPlan) -> Iterator[Source | SourceProblem]:
        for item in entries_of(plan):
            self._seen += 1
            if self._seen % EVERY == 0:
                self.progress(self._seen, self._bytes)
            if isinstance(item, LeftOut):
                self.left_out[item.why, item.is_folder] += 1
                continue
            if isinstance(item, Source):
                self._bytes += item.size
            yield item

    def _passages(self, source: Source, label: str) -> int:
        if not source.size:
            return 0
        is_text = not _NO_TEXT.fullmatch(source.source_id.rpartition(".")[2])
        if is_text and source.size >= SNIFFED_BYTES and self._sniffed < MOST_SNIFFED:
            self._sniffed += 1
            is_text = _begins_as_text(source)
        if not is_text:
            self.no_text += 1
            self.no_text_bytes += source.size
            return 0
        passages = -(-source.size // PASSAGE_BYTES)
        if len(self._largest) < MOST_LARGEST or passages > self._largest[0].passages:
            keep = heapq.heappush if len(self._largest) < MOST_LARGEST else heapq.heappushpop
            pattern = pattern_of(source.source_id.removeprefix(f"{label}/") if label else source.source_id)
            keep(self._largest, LargeFile(passages, source.source_id, source.size, pattern))
        return passages

    # -- what it came to ----------------------------------------------------------------------------------------------

    @property
    def files(self) -> int:
        """In all shards."""
        return sum(shard.files for shard in self.shards.values())

    @property
    def bytes(self) -> int:
        """In all shards."""
        return sum(shard.bytes for shard in self.shards.values())

    @property
    def passages(self) -> int:
        """In all shards, about."""
        return sum(shard.passages for shard in self.shards.values())

    @property
    def largest(self) -> list[LargeFile]:
        """The files with the most passages, the largest first."""
        return sorted(self._largest, reverse=True)

    def share(self, file: LargeFile) -> float:
        """Of all passages, 0 to 1."""
        return min(1.0, file.passages / max(1, self.passages))

    def dominating(self) -> LargeFile | None:
        """A single file that makes most of the work, `None` where there is none."""
        first = next(iter(self.largest), None)
        if first is None or first.passages < DOMINATING_PASSAGES or self.share(first) < DOMINATING_SHARE:
            return None
        return first

    def reasons(self) -> list[dict[str, Any]]:
        """What is left out, grouped by reason, the most frequent first."""
        whys = sorted({why for why, _ in self.left_out}, key=lambda why: (-self._times(why), why))
        return [{"why": why, "files": self.left_out[why, False], "folders": self.left_out[why, True]} for why in whys]

    def unused(self, patterns: Iterable[str]) -> list[str]:
        """Of the patterns of `--exclude`, those that left nothing out: perhaps they are not what was meant."""
        return [one for one in patterns if not one.startswith("!") and not self._times(f"--exclude {one}")]

    def _times(self, why: str) -> int:
        return self.left_out[why, False] + self.left_out[why, True]


def _begins_as_text(source: Source) -> bool:
    """Whether a large file may be text: as UTF-16 it has NUL bytes too, and a mark."""
    try:
        with open(source.place, "rb") as file:  # noqa: PTH123 - as the walk has it
            beginning = file.read(BEGINNING)
    except OSError:
        return True  # whoever reads it says what is wrong
    return b"\0" not in beginning or beginning.startswith((b"\xff\xfe", b"\xfe\xff"))
