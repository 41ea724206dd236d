"""How often a picture may be decoded while it is drawn, and how long the drawing takes with that."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

SHORTEST = 0.1  # seconds between previews: ten a second are enough
SHARE = 4  # times its cost passes between previews, so that they take a fifth of the time at most,
COSTLY = 0.5  # or, from so many seconds on,
COSTLY_SHARE = 60  # times, so that they take a sixtieth


@dataclass
class PreviewPace:
    """The costs of the previews of one job, in seconds.

    The cheapest one counts: the first may be a hundred times slower than all others, because a decoder that was never
    used is set up then, and any may be slow on a busy machine. By those, a drawing would end before the next preview.
    `cheapest` may be known from an earlier job.
    """

    cheapest: float | None = None
    first: float | None = None  # what the first one took
    last: float | None = None  # when the last one was ready
    spent: float = 0.0  # on all of them

    @property
    def cost(self) -> float | None:
        """What the next one will take, as far as that is known."""
        return self.first if self.cheapest is None else self.cheapest

    @property
    def costly(self) -> bool:
        """Whether decoding a preview is so slow that it is done seldom."""
        return (self.cost or 0.0) >= COSTLY

    def begun(self, now: float) -> Self:
        """At the start of a drawing, with a known cost: the first preview comes at once only where it is not costly."""
        self.last = now if self.costly else None
        return self

    def like(self, begin: float, end: float, count: int, set_up: bool) -> None:
        """What one picture of a preview of `count` took to decode, `begin` to `end`, before the first preview.

        set_up: the first use of the decoder says nothing of the next.
        """
        cost = (end - begin) * count
        self.first, self.spent = cost, self.spent + end - begin
        if not set_up:
            self.cheapest = min(cost, self.cheapest or cost)
            self.begun(end)

    def due(self, now: float) -> bool:
        """Whether another preview may be decoded."""
        return self.last is None or now - self.last > gap(self.cheapest)

    def took(self, begin: float, end: float) -> None:
        """A preview was decoded from `begin` to `end`. The first one ever says nothing of the next."""
        self.last, cost = end, end - begin
        self.spent += cost
        if self.first is not None or self.cheapest is not None:
            self.cheapest = min(cost, self.cheapest or cost)
        if self.first is None:
            self.first = cost

    def ahead(self, now: float, ends: Iterable[float]) -> float:
        """The seconds of the previews that will come where rows end, `ends` seconds of drawing after `now`."""
        cost, cheapest, last, spent = self.cost or 0.0, self.cheapest, self.last, 0.0
        for end in ends:
            at = now + end + spent
            if last is None or at - last > gap(cheapest):
                spent, last = spent + cost, at + cost
                cheapest = cost if self.first is not None else cheapest
        return spent


def gap(cost: float | None) -> float:
    """The least seconds between two previews."""
    cost = cost or 0.0
    return max(SHORTEST, (COSTLY_SHARE if cost >= COSTLY else SHARE) * cost)


@dataclass
class DrawingTime:
    """The seconds that pictures drawn cell by cell still take: their cells, previews and the decoding at their end.

    `first` and `last` are the cells that are drawn, with previews at the ends of rows of `row` cells; `later` is how
    many more such batches follow, `each` what a cell took in the batch before. The decoding at the end takes as long as
    a preview does.
    """

    pace: PreviewPace
    first: int
    last: int
    row: int
    later: float = 0.0
    each: float | None = None
    begun: float | None = None  # when the first cell was there: the prompt was read before
    _whole: float = 0.0  # a batch that follows

    def left(self, cell: int, now: float) -> float:
        """After a cell; 0 = that cannot be said yet."""
        if self.begun is None:
            self.begun = now
        cost, drawn = self.pace.cost, cell - self.first
        if drawn > 0:
            self.each = (now - self.begun - self.pace.spent) / drawn
        if cost is None or (each := self.each) is None:
            return 0.0
        others = PreviewPace(cost).begun(now).ahead(now, self._ends(self.first, each)) if self.later else 0.0
        self._whole = (self.last - self.first + 1) * each + others + cost
        previews = self.pace.ahead(now, self._ends(cell, each))
        return (self.last - cell) * each + previews + cost + self.later * self._whole

    def decoding(self, seconds: float) -> float:
        """After `seconds` of the decoding at the end; 0 = that cannot be said."""
        if self.pace.cost is None:
            return 0.0
        return max(1.0, self.pace.cost - seconds) + self.later * self._whole

    def _ends(self, cell: int, each: float) -> list[float]:
        """The seconds of drawing from a cell to the ends of its row and the rows behind, but the last cell."""
        first = cell // self.row * self.row + self.row - 1
        return [(end - cell) * each for end in range(first, self.last, self.row)]
