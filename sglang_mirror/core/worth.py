"""How probable a node must be to be worth a row of the verification, and what is drafted behind it a wait.

Tokens a second are what counts. At a rate of r tokens a second a row that takes b seconds costs b * r tokens,
and a node that the verified path comes to with probability p brings p: below p = b * r the window had better
end. (Of all windows those ended so have the highest rate, once that rate is theirs: Dinkelbach 1967,
Management Science 13(7), on ratios of two sums.) Both are measured, the row's time as the slope of a line
through the latest verifications' times.

A forward of the draft that the target waits for costs b * r tokens too, b being its time, and all windows
that are waited for share it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from sglang_mirror.core.policy import token_rate

KEPT = 0.98  # of what earlier verifications count, with each new one
ENOUGH = 16.0  # verifications before a slope means anything
VARIED = 0.25  # rows squared: their least variance, below which a slope is noise
MOST = 0.5  # a node that is as likely as not is always worth its row


@dataclass(slots=True)
class Slope:
    """A line through points (x, y), the latest counting most; sums of their weights and products."""

    weight: float = 0.0
    x: float = 0.0
    y: float = 0.0
    xx: float = 0.0
    xy: float = 0.0

    def add(self, x: float, y: float) -> None:
        self.weight = KEPT * self.weight + 1.0
        self.x = KEPT * self.x + x
        self.y = KEPT * self.y + y
        self.xx = KEPT * self.xx + x * x
        self.xy = KEPT * self.xy + x * y

    @property
    def value(self) -> float:
        """The slope by least squares; 0 while the points are few or too much alike."""
        spread = self.weight * self.xx - self.x * self.x
        if self.weight < ENOUGH or spread < VARIED * self.weight * self.weight:
            return 0.0
        return (self.weight * self.xy - self.x * self.y) / spread


class Worth:
    """Learns what a row costs and what a token is worth."""

    def __init__(self) -> None:
        self._row, self._rate = Slope(), token_rate()

    def verified(self, rows: int, seconds: float) -> None:
        """A verification of so many rows, all requests together, took so long."""
        self._row.add(rows, seconds)

    def stepped(self, tokens: int, seconds: float) -> None:
        """A step committed so many tokens; so long after it began the next one did."""
        self._rate.add(tokens, seconds)

    @property
    def row_tokens(self) -> float:
        """Tokens that a row costs; 0 if it costs nothing, or that is unknown."""
        return max(self._row.value * self._rate.value(), 0.0)

    @property
    def least(self) -> float:
        """Log-probability below which a node is not worth its row; -inf if every one is."""
        least = min(self.row_tokens, MOST)
        return math.log(least) if least > 0.0 else -math.inf

    @property
    def rate(self) -> float:
        """Tokens a second, of all requests, in steps with windows; 0 before there was one."""
        return self._rate.value()


def least_awaited(rate: float, forward_s: float, num_windows: int) -> float:
    """Log-probability of a node below which it is not worth waiting for what comes behind it; or -inf.

    Args:
        rate: tokens a second of the target, 0 if unknown.
        forward_s: seconds of a forward of the draft, 0 if unknown.
        num_windows: that the target waits for; a forward is shared by all.
    """
    cost = rate * forward_s / num_windows
    return math.log(min(cost, 1.0)) if cost > 0.0 else -math.inf
