"""How often a picture may be decoded while it is drawn."""

from __future__ import annotations

from dataclasses import dataclass

SHORTEST = 0.1  # seconds between previews: ten a second are enough
SHARE = 4  # times its cost passes between previews, so that they take a fifth of the time at most


@dataclass
class PreviewPace:
    """The costs of the previews of one job, in seconds.

    The cheapest one counts: the first may be a hundred times slower than all others, because a decoder that was never
    used is set up then, and any may be slow on a busy machine. By those, a drawing would end before the next preview.
    """

    last: float | None = None  # when the last one was ready
    cheapest: float = 0.0
    count: int = 0

    def due(self, now: float) -> bool:
        """Whether another preview may be decoded."""
        return self.last is None or now - self.last > max(SHORTEST, SHARE * self.cheapest)

    def took(self, begin: float, end: float) -> None:
        """A preview was decoded from `begin` to `end`. The first one says nothing of the next."""
        self.count += 1
        self.last, cost = end, end - begin
        if self.count == 2:
            self.cheapest = cost
        elif self.count > 2:
            self.cheapest = min(self.cheapest, cost)
