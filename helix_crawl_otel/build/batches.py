"""Which genes of a shard are encoded together: the longest first, up to so many tokens with padding a batch.

A forward pass costs its rows times its longest text, so texts of one length belong together; and memory grows with
each batch that is longer than all before, so the longest come first. Sorted by characters over the shard, which SQLite
does without a model; then by the encoder's tokens in windows of some batches, as they are reached, each cut so that
padding and batches together cost least. The plan is kept in the shard, see `shards.batch_plan`: the same batches
however often the worker is replaced.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from helix_crawl_otel.encoders.base import LETTERS_A_TOKEN, Encoder
from helix_crawl_otel.encoders.truncation import Truncation
from helix_crawl_otel.link.messages import Assignment
from helix_crawl_otel.policy.batch_limits import BatchLimits, cut, cut_by_length
from helix_crawl_otel.shards.batch_plan import FILE_ORDER, BatchPlan, PlannedGene
from helix_crawl_otel.shards.genes import PendingGene

__all__ = ["ShardBatches", "WaitingWork", "pieces"]

WINDOW = 16
"""Batches whose genes are sorted by tokens at once."""

COUNTED_AT_ONCE = 64
"""Texts whose tokens are counted at once: a text of which a worker dies is one of so many."""

LETTERS_OF_A_TOKEN = 4
"""About, where tokens cannot be counted."""

SAMPLED = 128
"""Genes, spread over the plan, by which the work that waits is estimated."""


def pieces(batch: Sequence[PendingGene], limits: Mapping[str, int]) -> list[list[PendingGene]]:
    """The batch in order, whole unless one of its genes begins a piece that has to be smaller, because one killed its
    worker. The grid of batches stays as it is.

    Args:
        batch: In the shard's order.
        limits: Most genes of a piece, by its first gene's id as text. What is left of the batch after it is a piece
            again, at most as large: the poisonous gene may be in either half.
    """
    found: list[list[PendingGene]] = []
    start, most = 0, len(batch)
    while start < len(batch):
        most = min(most, limits.get(str(batch[start].gene_id), most))
        found.append(list(batch[start : start + most]))
        start += most
    return found


class WaitingWork:
    """The work of the batches to come, by the lengths of a few genes spread over the plan. Pure.

    Args:
        points: Place and length of each, by place; at least one.
        end: The last place.
        limits: Of a batch.
    """

    def __init__(self, points: Sequence[tuple[int, float]], end: int, limits: BatchLimits) -> None:
        places, lengths = [place for place, _ in points], [length for _, length in points]
        place, work = places[0], 0.0
        self._places, self._work = [place], [work]  # of some batches: where they begin, and what those before them cost
        step = (end + 1 - place) // SAMPLED
        while place <= end:
            number = bisect_right(places, place) - 1
            length = lengths[number]
            if number + 1 < len(places):
                here, there = places[number : number + 2]
                length += (lengths[number + 1] - length) * (place - here) / (there - here)
            size = int(min(limits.genes, max(1.0, limits.tokens // length), end + 1 - place))
            place, work = place + size, work + size * length
            if place > end or place >= self._places[-1] + step:
                self._places.append(place)
                self._work.append(work)

    def after(self, place: int) -> float:
        """Of all genes behind this place."""
        at = min(max(place + 1, self._places[0]), self._places[-1])
        number = max(1, bisect_left(self._places, at))
        begin, end = self._places[number - 1 : number + 1]
        done, with_this = self._work[number - 1 : number + 1]
        return self._work[-1] - done - (with_this - done) * (at - begin) / (end - begin)


class ShardBatches:
    """The batches of a shard that lack vectors, one after the other.

    Args:
        plan: Prepared.
        encoder: Counts tokens.
        limits: Of a batch.
        assignment: Which genes and pieces are suspected of having killed a worker.
        look_at: Told of the genes whose tokens are counted next: a worker may die of it.

    Attributes:
        unreached: Ids, as text, of genes that are pending and that SQLite does not find; known at the end.

    Threads: the store's.
    """

    def __init__(
        self,
        plan: BatchPlan,
        encoder: Encoder,
        limits: BatchLimits,
        assignment: Assignment,
        look_at: Callable[[Sequence[PendingGene]], None],
    ) -> None:
        self._plan = plan
        self._encoder = encoder
        self._limits = limits
        self._window = WINDOW * int(min(limits.genes, limits.tokens))
        limits_of_letters = (
            Truncation.of(encoder.identity).max_chars,
            None if encoder.limit is None else encoder.limit * LETTERS_A_TOKEN,
        )
        self._letters = min(filter(None, limits_of_letters), default=None)
        self._assignment = assignment
        self._look_at = look_at
        self._places: dict[int | str, int] = {}  # of the genes that are planned at once, by key
        self._lengths: dict[int | str, float] = {}  # likewise
        self._end, self._batch = plan.last()  # the last place, and the highest number of a batch
        self.unreached: list[str] = []
        self._fetched = 0  # genes
        self._waiting = self._estimate()

    def _estimate(self) -> WaitingWork | None:
        first = self._plan.page(self._plan.begin, 1)
        if not first or self._plan.rule == FILE_ORDER:
            return None
        begin, end = first[0].place, self._end
        places = sorted({begin + number * (end - begin) // SAMPLED for number in range(SAMPLED + 1)})
        sample = {one.key: one.place for place in places for one in self._plan.page(place - 1, 1)}
        lengths = self._count(list(sample))
        counted = sorted(sample[key] for key in lengths)
        points = list(zip(counted, sorted(lengths.values(), reverse=True), strict=True))  # as they will be planned
        return WaitingWork(points, end, self._limits) if points else None

    def work_pending(self, tried: Sequence[PendingGene] = ()) -> float | None:
        """What the genes cost, in the unit of `work`, that come after those tried last; `None` where nobody knows."""
        if self._waiting is None:
            return None
        return self._waiting.after(max((self._places.get(gene.key, self._end) for gene in tried), default=0))

    def cost(self, genes: Sequence[PendingGene]) -> tuple[float, float]:
        """What these cost together: their number times the longest; and what they would without padding."""
        known = [self._lengths.get(gene.key) for gene in genes]
        lengths = [length for length in known if length is not None]
        if len(lengths) < len(genes):
            lengths = self._encoder.lengths([gene.content for gene in genes])
        return len(genes) * max(lengths), sum(lengths)

    def __iter__(self) -> Iterator[list[PendingGene]]:
        after, extended_at = self._plan.begin, -1
        while True:
            page = self._plan.page(after, self._window)
            if not page:
                # An extension of which no gene could be fetched is the last one: the next would be the same for ever.
                if extended_at == self._fetched:
                    self.unreached = self._plan.unreached()
                    return
                if not self._plan.extend():
                    return
                extended_at = self._fetched
                continue
            planned_page = self._planned(page)
            after = planned_page[-1].place
            self._places = {one.key: one.place for one in planned_page}
            for _, planned in itertools.groupby(planned_page, key=lambda one: one.batch):
                genes = self._plan.genes([one.key for one in planned])
                self._fetched += len(genes)
                yield from self._cut(genes)

    def _planned(self, page: list[PlannedGene]) -> list[PlannedGene]:
        """Whole batches of those that were read at once, all of them planned."""
        if page[0].batch is None:
            return self._plan_window(list(itertools.takewhile(lambda one: one.batch is None, page)))
        planned = list(itertools.takewhile(lambda one: one.batch is not None, page))
        if len(planned) == self._window and planned[0].batch != planned[-1].batch:  # the last may go on behind the page
            planned = [one for one in planned if one.batch != planned[-1].batch]
        self._lengths = self._count([one.key for one in planned])
        return planned

    def _plan_window(self, window: Sequence[PlannedGene]) -> list[PlannedGene]:
        """Put them in the order of their tokens, cut them into batches, and keep that."""
        self._lengths = self._count([one.key for one in window])
        by_tokens = sorted(window, key=lambda one: -self._lengths.get(one.key, 0.0))
        sizes = cut_by_length([self._lengths.get(one.key, 0.0) for one in by_tokens], self._limits)
        numbers = itertools.chain.from_iterable([self._batch + n] * size for n, size in enumerate(sizes, start=1))
        planned = [
            PlannedGene(place.place, number, one.key)
            for place, number, one in zip(window, numbers, by_tokens, strict=True)
        ]
        self._batch += len(sizes)
        self._plan.write(planned)
        return planned

    def _cut(self, genes: Sequence[PendingGene]) -> Iterator[list[PendingGene]]:
        """The genes of a batch, in pieces where it is too large here: planned for a card, say, and this is the CPU."""
        is_by_tokens = self._plan.rule != FILE_ORDER
        limits = self._limits if is_by_tokens else replace(self._limits, tokens=math.inf)
        start = 0
        for size in cut([self._lengths.get(gene.key, 0.0) for gene in genes], limits):
            yield list(genes[start : start + size])
            start += size

    def _count(self, keys: Sequence[int | str]) -> dict[int | str, float]:
        """The lengths of genes by their keys, but for those that are suspected to have killed a worker, alone."""
        found: dict[int | str, float] = {}
        for start in range(0, len(keys), COUNTED_AT_ONCE):
            lot = self._plan.genes(keys[start : start + COUNTED_AT_ONCE], self._letters)
            sound = [gene for gene in lot if str(gene.gene_id) not in self._assignment.quarantine]
            for part in pieces(sound, self._assignment.limits):
                self._look_at(part)
                lengths = self._counted([gene.content for gene in part])
                found.update(zip((gene.key for gene in part), lengths, strict=True))
        return found

    def _counted(self, texts: Sequence[str]) -> list[float]:
        """By letters for a text whose tokens cannot be counted: whether it can be encoded is found out when it is."""
        try:
            return self._encoder.lengths(texts)
        except Exception:  # noqa: BLE001 - the tokenizer's own, whatever it is; it will be met again
            if len(texts) > 1:
                return [length for text in texts for length in self._counted([text])]
            return [max(1.0, min(len(texts[0]) / LETTERS_OF_A_TOKEN, self._encoder.limit or math.inf))]
