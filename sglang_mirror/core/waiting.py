"""Whether a step waits for the windows of requests that missed, while the others of its batch have theirs.

A request's step begins with a branch (its last outcome hit), with a fresh window that was waited for, or
with its root alone. Let these bring g_b, g_f and no draft tokens, and let there be a branch for their outcome
with chance h_b, h_f and h_r. The target commits r tokens a second, so a wait of w seconds costs r * w tokens,
which the m requests that miss share. As a decision process (Howard 1960, Dynamic Programming and Markov
Processes, chapter 4) a request with a branch is

    D = g_b / (1 - h_b + h_r)

tokens ahead of one that goes on with its root alone, and waiting is the better way where a fresh window
brings more than the request's part of the wait costs, from

    m = r * w / (g_f + (h_f - h_r) * D)

misses on. All of it is measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

KEPT = 0.98  # of what earlier steps count, with each new one
ENOUGH = 8  # waits before anything is concluded from them
# After so many decisions alike one is made otherwise, to see what that brings; more and more seldom.
FIRST_PAUSE, LONGEST_PAUSE, LONGER = 32, 1024, 2


@dataclass(frozen=True, slots=True)
class Fared:
    """How one request fared in a step that tells of its draft.

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
class Mean:
    """Of what was found, the latest counting most."""

    total: float = 0.0
    weight: float = 0.0

    def add(self, found: Sequence[float]) -> None:
        """What a step has shown."""
        if found:
            self.total = KEPT * self.total + sum(found)
            self.weight = KEPT * self.weight + len(found)

    def value(self, unknown: float = 0.0) -> float:
        return self.total / self.weight if self.weight else unknown


class Way:
    """One of the ways in which a request's step begins with a window.

    Attributes:
        brought: draft tokens that it brought, less what their rows cost.
        hits: how often its outcome had a branch.
    """

    def __init__(self) -> None:
        self.brought, self.hits = Mean(), Mean()

    def learn(self, fared: Sequence[Fared], row_tokens: float) -> None:
        self.brought.add([each.tokens - 1 - row_tokens * (each.drafted or 0) for each in fared])
        self.hits.add([each.hit for each in fared])


class Waiting:
    """Learns what waits bring and cost."""

    def __init__(self) -> None:
        self._branch, self._fresh = Way(), Way()
        self._behind_root = Mean()  # how often a root alone had a branch for its outcome
        self._seconds = Mean()  # that a step waits, if it does
        self._waits = 0
        self._last, self._alike, self._pause = True, 0, FIRST_PAUSE

    def learn(self, fared: Sequence[Fared], waited_s: float, row_tokens: float) -> None:
        """A step is over.

        Args:
            fared: each request of it that the draft holds.
            waited_s: seconds that the target waited for windows.
            row_tokens: what a row of the verification costs, in tokens. Beside others a request has as many
                rows as the longest window, whatever its own is.
        """
        row_tokens = row_tokens if len(fared) == 1 else 0.0
        awaited = [each for each in fared if each.awaited]
        others = [each for each in fared if not each.awaited]
        self._fresh.learn(awaited, row_tokens)
        self._branch.learn([each for each in others if each.drafted is not None], row_tokens)
        self._behind_root.add([each.hit for each in others if each.drafted is None])
        if awaited:
            self._seconds.add([waited_s])
            self._waits += 1

    def decide(self, misses: int, rate: float) -> bool:
        """Whether the target waits for the windows of so many requests that missed in one step.

        Args:
            misses: at least 1.
            rate: tokens a second of the batch, 0 if unknown.
        """
        best = misses >= self.least_misses(rate)
        if best is not self._last:
            self._last, self._alike, self._pause = best, 0, FIRST_PAUSE
        self._alike += self._waits >= ENOUGH
        if self._alike <= self._pause:
            return best
        self._alike, self._pause = 0, min(LONGER * self._pause, LONGEST_PAUSE)
        return not best

    def least_misses(self, rate: float) -> float:
        """Misses in one step from which on the target had better wait; inf if it never had.

        Args:
            rate: as `decide`.
        """
        if self._waits < ENOUGH:
            return 0.0
        cost = rate * self._seconds.value()
        behind_fresh = self._fresh.hits.value()
        behind_root = self._behind_root.value(behind_fresh)
        ahead = self._branch.brought.value() / max(1.0 - self._branch.hits.value() + behind_root, 1e-3)
        brought = self._fresh.brought.value() + (behind_fresh - behind_root) * ahead
        if brought <= 0.0:
            return math.inf if cost else 0.0
        return cost / brought
