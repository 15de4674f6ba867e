"""Whether to speculate in a step, and how far: what the steps before it have shown of both."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sglang_mirror.core.policy import Policy
from sglang_mirror.core.worth import Worth


@dataclass(slots=True)
class _Step:
    """The last step; how long it took is known when the next begins."""

    batch: int = 0
    sampled: bool = False
    speculated: bool = False
    tokens: int = 0


class Speculation:
    """Judges for one target.

    Args:
        may_rest: whether steps may go without windows where plain decoding is faster.
        may_end: whether windows may end where the next token does not pay.
        resizable: whether a verification of fewer rows is a shorter one: then tokens have rows to pay for.
    """

    def __init__(self, *, may_rest: bool, may_end: bool, resizable: bool) -> None:
        self._policy = Policy() if may_rest else None
        self._worth = Worth() if may_end else None
        self._resizable = resizable
        self._last = _Step()

    def begin(self, batch: int, *, sampled: bool, cycle_s: float | None) -> bool:
        """A step begins; whether to speculate in it.

        Args:
            batch: its requests.
            sampled: whether any of them draws its tokens.
            cycle_s: seconds since the last step began; None if a prefill came between.
        """
        if cycle_s is not None:
            self._learn(self._last, cycle_s)
        self._last = _Step(batch, sampled)
        return self._policy is None or self._policy.choose(batch, sampled=sampled)

    def end(self, *, rows: int, seconds: float, speculated: bool, tokens: int) -> None:
        """The step has been verified.

        Args:
            rows: of all requests together.
            seconds: that the verification took.
            speculated: whether the step had windows, or waited for one.
            tokens: committed, of all requests.
        """
        self._last.speculated, self._last.tokens = speculated, tokens
        if self._worth is not None:
            self._worth.verified(rows, seconds)

    @property
    def least(self) -> float:
        """Log-probability below which a node is not worth its row; -inf if every one is."""
        return -math.inf if self._worth is None or not self._resizable else self._worth.least

    @property
    def rate(self) -> float:
        """Tokens a second, as an awaited window has to pay for; 0 if it need not, or they are unknown."""
        return 0.0 if self._worth is None else self._worth.rate

    def report(self) -> dict[str, dict[str, bool]]:
        """As `Policy.report`; empty if every step speculates."""
        return {} if self._policy is None else self._policy.report()

    def _learn(self, step: _Step, cycle_s: float) -> None:
        if self._policy is not None:
            self._policy.learn(
                step.batch,
                sampled=step.sampled,
                speculated=step.speculated,
                tokens=step.tokens,
                seconds=cycle_s,
            )
        if self._worth is not None and step.speculated:
            self._worth.stepped(step.tokens, cycle_s)
