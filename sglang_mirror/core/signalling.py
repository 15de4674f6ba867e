"""Whether the early exit is read in a verification, where the draft's own guesses may do without it.

A guess of the exit's that hits saves what a miss would have cost, c tokens (`waiting.Waiting.hit_worth`).
With e such hits a step, and s seconds for which reading holds the target up, at r tokens a second, it pays
while

    e * c > r * s

All of it is measured. That the draft might have made some of these guesses itself, had it not kept a share of
its roots for the exit's, is not: so the exit is given up a little late. Nor is what reading costs a target
whose graphs have it in any case, as on a GPU; there it is given up where nothing hits.
"""

from __future__ import annotations

from dataclasses import dataclass

from sglang_mirror.core.decaying import Ratio
from sglang_mirror.core.trials import Trials

KEPT = 0.98  # of what earlier steps count, with each new one
ENOUGH = 64  # steps with the exit before anything is concluded, and steps of a trial
# Decisions without the exit before it is tried again.
FIRST_PAUSE, LONGEST_PAUSE = 1024, 16384


@dataclass(frozen=True, slots=True)
class Signalled:
    """What the early exit did in a step in which it was read.

    Attributes:
        hits: outcomes for which there was a branch by its guess.
        seconds: for which it held the target up.
    """

    hits: int
    seconds: float


class Signalling:
    """Learns what the early exit brings and costs."""

    def __init__(self) -> None:
        self._hits, self._seconds = Ratio(KEPT), Ratio(KEPT)  # a step
        self._left = ENOUGH  # steps of the trial that runs
        self._trials = Trials(FIRST_PAUSE, LONGEST_PAUSE)

    def learn(self, found: Signalled) -> None:
        """A step in which the exit was read is over."""
        self._hits.add(found.hits, 1)
        self._seconds.add(found.seconds, 1)
        self._left = max(self._left - 1, 0)

    def decide(self, hit_worth: float, rate: float) -> bool:
        """Whether to read the exit in the next step.

        Args:
            hit_worth: tokens that a hit saves; inf if unknown.
            rate: tokens a second of the batch, 0 if unknown.
        """
        if self._left:
            return True
        if self._pays(hit_worth, rate):
            self._trials.restart()
            return True
        if self._trials.due():
            self._left = ENOUGH
        return self._left > 0

    def _pays(self, hit_worth: float, rate: float) -> bool:
        hits = self._hits.value()
        return hits > 0.0 and hits * hit_worth > rate * self._seconds.value()
