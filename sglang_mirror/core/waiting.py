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

misses on. One that is waited for alone is behind one with a branch by what it brings less, and by the wait:

    (g_b - g_f + r * w) / (1 - h_b + h_f)

All of it is measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sglang_mirror.core.decaying import Ratio
from sglang_mirror.core.trials import Trials

KEPT = 0.98  # of what earlier steps count, with each new one
ENOUGH = 8  # waits before anything is concluded from them
# After so many decisions alike one is made otherwise, to see what that brings; more and more seldom.
FIRST_PAUSE, LONGEST_PAUSE = 32, 1024


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


class Way:
    """One of the ways in which a request's step begins with a window.

    Attributes:
        brought: draft tokens that it brought, less what their rows cost.
        hits: how often its outcome had a branch.
    """

    def __init__(self) -> None:
        self.brought, self.hits = Ratio(KEPT), Ratio(KEPT)  # a request

    def learn(self, fared: Sequence[Fared], row_tokens: float) -> None:
        brought = sum(each.tokens - 1 - row_tokens * (each.drafted or 0) for each in fared)
        self.brought.add(brought, len(fared))
        self.hits.add(_num_hits(fared), len(fared))


class Waiting:
    """Learns what waits bring and cost."""

    def __init__(self) -> None:
        self._branch, self._fresh = Way(), Way()
        self._behind_root = Ratio(KEPT)  # how often a root alone had a branch for its outcome
        self._seconds = Ratio(KEPT)  # that a step waits, if it does
        self._waits = 0
        self._last, self._trials = True, Trials(FIRST_PAUSE, LONGEST_PAUSE)

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
        alone = [each for each in others if each.drafted is None]
        self._behind_root.add(_num_hits(alone), len(alone))
        if awaited:
            self._seconds.add(waited_s, 1)
            self._waits += 1

    def decide(self, misses: int, rate: float) -> bool:
        """Whether the target waits for the windows of so many requests that missed in one step.

        Args:
            misses: at least 1.
            rate: tokens a second of the batch, 0 if unknown.
        """
        best = misses >= self.least_misses(rate)
        if best is not self._last:
            self._last = best
            self._trials.restart()
        return best is not (self._waits >= ENOUGH and self._trials.due())

    def least_misses(self, rate: float) -> float:
        """Misses in one step from which on the target had better wait; inf if it never had.

        Args:
            rate: as `decide`.
        """
        if self._waits < ENOUGH:
            return 0.0
        cost = rate * self._seconds.value()
        behind = self._fresh.hits.value() - self._hits_behind_root
        brought = self._fresh.brought.value() + behind * self._ahead(0.0, self._hits_behind_root)
        if brought <= 0.0:
            return math.inf if cost else 0.0
        return cost / brought

    def hit_worth(self, rate: float, *, waits: bool) -> float:
        """Tokens that a request with a branch is ahead of one that misses alone; inf while unknown.

        Args:
            rate: as `decide`.
            waits: whether that one is waited for.
        """
        if not waits:
            return max(self._ahead(0.0, self._hits_behind_root), 0.0)
        if self._waits < ENOUGH:
            return math.inf
        cost = rate * self._seconds.value()
        return max(self._ahead(self._fresh.brought.value() - cost, self._fresh.hits.value()), 0.0)

    @property
    def _hits_behind_root(self) -> float:
        return self._behind_root.value(self._fresh.hits.value())

    def _ahead(self, brought: float, hits: float) -> float:
        """Tokens that a request with a branch is ahead of one whose step brings, and hits, so."""
        return (self._branch.brought.value() - brought) / max(1.0 - self._branch.hits.value() + hits, 1e-3)


def _num_hits(fared: Sequence[Fared]) -> int:
    return sum(each.hit for each in fared)
