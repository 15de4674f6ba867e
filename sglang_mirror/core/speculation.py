"""Whether to speculate in a step, how far, and whom to wait for: what the steps before it have shown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sglang_mirror.core.policy import Policy
from sglang_mirror.core.signalling import Signalled, Signalling
from sglang_mirror.core.waiting import Fared, Waiting
from sglang_mirror.core.worth import Worth


@dataclass(slots=True)
class _Step:
    """The last step; how long it took is known when the next begins."""

    batch: int = 0
    sampled: bool = False
    speculated: bool = False
    drafted: bool = False
    in_vain: bool = False
    tokens: int = 0


class Speculation:
    """Judges for one target.

    Args:
        may_rest: whether steps may go without windows where plain decoding is faster.
        may_end: whether windows may end where the next token does not pay.
        least_misses: in one step, from which on their windows are waited for; None: as measured.
        may_mute: whether the early exit may go unread where it does not pay.
        resizable: whether a verification of fewer rows is a shorter one: then tokens have rows to pay for.
    """

    def __init__(
        self,
        *,
        may_rest: bool,
        may_end: bool,
        resizable: bool,
        least_misses: float | None = 0.0,
        may_mute: bool = False,
    ) -> None:
        self._policy = Policy() if may_rest else None
        self._worth, self._may_end = Worth(), may_end
        self._waiting, self._least_misses = Waiting(), least_misses
        self._signalling = Signalling() if may_mute else None
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

    def end(
        self,
        fared: Sequence[Fared],
        *,
        rows: int,
        seconds: float,
        waited_s: float,
        tokens: int,
        joined: bool = False,
        signalled: Signalled | None = None,
    ) -> None:
        """The step has been verified, and what it committed been looked up.

        Args:
            fared: each request whose step tells of its draft; none if nobody speculated.
            rows: of all requests together.
            seconds: that the verification took.
            waited_s: seconds that it had been waited for windows before.
            tokens: committed, of all requests.
            joined: whether requests had joined the batch: what these wait for are no misses.
            signalled: what the early exit did; None if it was not read.
        """
        self._last.speculated, self._last.tokens = bool(fared), tokens
        num_drafted = sum(each.drafted is not None or each.hit for each in fared)
        self._last.drafted = 2 * num_drafted > self._last.batch
        self._last.in_vain = any(each.awaited and each.drafted is None for each in fared)
        self._worth.verified(rows, seconds)
        if not joined:
            self._waiting.learn(fared, waited_s, self._worth.row_tokens if self._resizable else 0.0)
        if self._signalling is not None and signalled is not None:
            self._signalling.learn(signalled)

    def waits(self, misses: int) -> bool:
        """Whether the windows of so many requests, which missed in one step, are waited for."""
        if self._least_misses is not None:
            return misses >= self._least_misses
        return self._waiting.decide(misses, self._worth.rate)

    def signals(self) -> bool:
        """Whether the early exit is read in the next step with windows; asked once a step."""
        if self._signalling is None:
            return True
        rate = self._worth.rate
        hit_worth = self._waiting.hit_worth(rate, waits=self.least_misses <= 1)
        return self._signalling.decide(hit_worth, rate)

    @property
    def least_misses(self) -> float:
        """Misses in one step from which on their windows are waited for, exceptions apart."""
        if self._least_misses is not None:
            return self._least_misses
        return self._waiting.least_misses(self._worth.rate)

    @property
    def least(self) -> float:
        """Log-probability below which a node is not worth its row; -inf if every one is."""
        return self._worth.least if self._may_end and self._resizable else -math.inf

    @property
    def rate(self) -> float:
        """Tokens a second, as an awaited window has to pay for; 0 if it need not, or they are unknown."""
        return self._worth.rate if self._may_end else 0.0

    def report(self) -> dict[str, dict[str, bool]]:
        """As `Policy.report`; empty if every step speculates."""
        return {} if self._policy is None else self._policy.report()

    def _learn(self, step: _Step, cycle_s: float) -> None:
        if self._policy is not None:
            self._policy.learn(
                step.batch,
                sampled=step.sampled,
                speculated=step.speculated,
                drafted=step.drafted,
                in_vain=step.in_vain,
                tokens=step.tokens,
                seconds=cycle_s,
            )
        if step.speculated:
            self._worth.stepped(step.tokens, cycle_s)
