"""Verification: which path of a window the target's own tokens follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sglang_mirror.core.window import Window


@dataclass(frozen=True, slots=True)
class Outcome:
    """What verification ended with.

    Attributes:
        node: the last node of the verified path.
        correction: the target's token at that node; at a leaf it is the bonus.
    """

    node: int
    correction: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verified path (root first) and the outcome at its end."""

    path: tuple[int, ...]
    outcome: Outcome

    @property
    def num_accepted(self) -> int:
        """Accepted draft tokens: the path without its root."""
        return len(self.path) - 1

    def committed(self, window: Window) -> tuple[int, ...]:
        """The tokens this step commits: the accepted ones, then the correction."""
        return (*(window.tokens[node] for node in self.path[1:]), self.outcome.correction)


def reached(window: Window | None, committed: Sequence[int]) -> Outcome:
    """The outcome that these committed tokens tell of.

    Args:
        window: that was verified, None for the root alone.
        committed: the accepted tokens, then the correction.

    Its node is -1, for which there is no branch, where the padding behind a window was accepted.
    """
    *accepted, correction = committed
    if window is None:
        return Outcome(-1 if accepted else 0, correction)
    node = window.reached(accepted)
    return Outcome(-1 if node is None else node, correction)


def follow(window: Window, target_tokens: Sequence[int]) -> Verdict:
    """Follow the window from its root as long as a child carries the target's token.

    Args:
        window: the verified window, n nodes.
        target_tokens: the target's own token at each node, [n]; sampled at temperature > 0, else the argmax.

    The exact-match rule: only the target's samples are committed, so the law of the output is the target's
    whatever the window was (Mirror Speculative Decoding, arXiv 2510.13161, section 2).
    """
    path = [0]
    while True:
        wanted = target_tokens[path[-1]]
        agreeing = next((c for c in window.children(path[-1]) if window.tokens[c] == wanted), None)
        if agreeing is None:
            return Verdict(tuple(path), Outcome(path[-1], wanted))
        path.append(agreeing)
