"""Whether a step waits for the windows of requests that missed, while the others of its batch have theirs.

A wait of w seconds holds the whole batch up, which commits r tokens a second meanwhile: it costs r * w. It
brings m requests a window each, and a window brings g tokens in this step. Nor is the next step the same to
them: behind a window it has one with chance h, behind the root alone with chance q. So a request with a
window is D = g + (h - q) * D tokens ahead of one without (a decision process of two states, whose relative
value D is; Howard 1960, Dynamic Programming and Markov Processes, chapter 4), and waiting pays from

    m = r * w * (1 - h + q) / g

misses on. All of it is measured: g and w where the target waited, q where it did not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sglang_mirror.core.policy import KEPT, Rate

ENOUGH = 8  # waits before anything is concluded from them
SELDOM = 32  # steps with misses that nobody waited for; then one is waited for, or nothing new were learned


@dataclass(frozen=True, slots=True)
class Fared:
    """How one request fared in a step.

    Attributes:
        drafted: draft tokens of its window; None if its root was verified alone.
        awaited: whether it missed before and the target waited for its window.
        tokens: committed.
        hit: whether its outcome has a branch.
    """

    drafted: int | None
    awaited: bool
    tokens: int
    hit: bool


@dataclass(slots=True)
class Share:
    """How often something was so, the latest steps counting most."""

    so: float = 0.0
    all: float = 0.0

    def add(self, found: Sequence[bool]) -> None:
        """What a step has shown; without anything in it it is none."""
        if found:
            self.so = KEPT * self.so + sum(found)
            self.all = KEPT * self.all + len(found)

    def value(self, unknown: float) -> float:
        return self.so / self.all if self.all else unknown


class Waiting:
    """Learns what waits bring and cost."""

    def __init__(self) -> None:
        self._waits, self._unwaited = 0, 0
        self._fresh = Rate()  # tokens that a window brings, and seconds that a step waits
        self._behind_window, self._behind_root = Share(), Share()

    def learn(self, fared: Sequence[Fared], waited_s: float, row_tokens: float) -> None:
        """A step is over.

        Args:
            fared: each request of it that the draft holds.
            waited_s: seconds that the target waited for windows.
            row_tokens: what a row of the verification costs, in tokens.
        """
        self._behind_window.add([each.hit for each in fared if each.drafted is not None])
        passed = [each.hit for each in fared if each.drafted is None and not each.awaited]
        self._behind_root.add(passed)
        awaited = [each for each in fared if each.awaited]
        if awaited:
            brought = sum(each.tokens - 1 - row_tokens * (each.drafted or 0) for each in awaited)
            self._fresh.add(brought / len(awaited), waited_s)
            self._waits, self._unwaited = self._waits + 1, 0
        else:
            self._unwaited += bool(passed)

    def least_misses(self, rate: float) -> float:
        """Misses in one step from which on the target had better wait; inf if it never had.

        Args:
            rate: tokens a second of the batch, 0 if unknown.
        """
        if self._waits < ENOUGH or self._unwaited >= SELDOM:
            return 0.0
        hits = self._behind_window.value(0.0)
        cost = rate * self._fresh.seconds * (1.0 - hits + self._behind_root.value(hits))
        if self._fresh.tokens <= 0.0:
            return math.inf if cost else 0.0
        return cost / self._fresh.tokens
