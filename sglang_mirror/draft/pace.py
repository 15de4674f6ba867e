"""How much of a prompt goes into one forward: as much as takes about as long as nobody minds.

Between two forwards the draft beats, hears and says; a chunk that took as long as a target's patience would
have it taken for dead, and begin again, for ever.
"""

from __future__ import annotations

import math

# What a window waits for at most behind a chunk.
AIM_MS = 50.0
# Where even a forward of one row takes long, chunks of AIM_MS would spend most of their time on what every
# forward costs: they may take so many times as long as the quickest one.
OF_QUICKEST = 2.0
# Chunks are so many rows or a multiple, which is what a GPU's graphs are made for; and so small is the first.
GRAIN = 16
# A chunk has at most so many times the rows that have been measured.
GROWTH = 2
# So much slower the quickest forward is held to be after each one: what is quick changes.
FORGETTING = 1.02


class Pace:
    """Measures forwards and sizes chunks by them. Times are handed in."""

    def __init__(self) -> None:
        self._quickest_ms = math.inf  # what a forward costs before its rows do
        self._row_ms = 0.0  # what each row of a chunk adds
        self._measured = 0  # rows of the last forward with a whole chunk

    def rows(self, *, limit_ms: float, beside: int = 0) -> int:
        """Rows of the next chunk.

        Args:
            limit_ms: that its forward is not to exceed.
            beside: other rows of that forward.
        """
        fitting = GROWTH * self._measured
        if self._row_ms:
            aim_ms = min(max(AIM_MS, OF_QUICKEST * self._quickest_ms), limit_ms)
            fitting = min(fitting, int((aim_ms - self._quickest_ms) / self._row_ms))
        return max((fitting - beside) // GRAIN, 1) * GRAIN

    def took(self, rows: int, ms: float, *, whole_chunk: bool) -> None:
        """A forward of so many rows took `ms` milliseconds.

        What is slower counts at once, what is faster by half. A prompt's last rows say nothing: of few rows
        each seems dear.
        """
        self._quickest_ms = min(ms, FORGETTING * self._quickest_ms)
        if whole_chunk:
            row_ms = (ms - self._quickest_ms) / rows
            self._row_ms, self._measured = max(row_ms, (self._row_ms + row_ms) / 2), rows
