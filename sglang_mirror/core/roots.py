"""Roots: the outcomes that the draft prepares a branch for while the target still verifies."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from sglang_mirror.core.window import Window

# Rounding may leave an exit nothing for the window's own token; a logarithm needs something.
LEAST_PASSING = 1e-6

RootMode = Literal["exit", "draft", "union", "none"]
Source = Literal["draft", "exit"]

# Share of the budget that phase 1 (the draft's own logits) may spend when the signal follows. Untrained
# exits at half depth are worse per candidate than the draft's own guess, so halving the budget loses.
PHASE_1_SHARE = 0.75


@dataclass(frozen=True, slots=True)
class Candidates:
    """The most probable next tokens at one node, most probable first.

    Attributes:
        tokens: token ids, [k].
        logprobs: their natural-log probabilities, [k].
    """

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]

    def logprob(self, token: int) -> float:
        """Log-probability of `token`; just below the least probable candidate if it is not among them."""
        if token in self.tokens:
            return self.logprobs[self.tokens.index(token)]
        return self.logprobs[-1] - 1.0 if self.logprobs else -math.inf

    def without(self, tokens: Collection[int], count: int) -> Candidates:
        """The first `count` candidates that are not among `tokens`."""
        kept = [(t, p) for t, p in zip(self.tokens, self.logprobs, strict=True) if t not in tokens][:count]
        return Candidates(tuple(t for t, _ in kept), tuple(p for _, p in kept))


@dataclass(frozen=True, slots=True)
class Root:
    """A guessed outcome and the log of its estimated probability."""

    node: int
    token: int
    value: float


def phase_budgets(mode: RootMode, budget: int) -> tuple[int, int]:
    """Roots that phase 1 (the draft's logits) and both phases together may spend."""
    if mode == "none":
        return 0, 0
    if mode == "exit":
        return 0, budget
    if mode == "draft":
        return budget, budget
    return math.ceil(budget * PHASE_1_SHARE), budget


def reach(window: Window, candidates: Sequence[Candidates]) -> tuple[float, ...]:
    """Log-probability, by the draft's own estimate, that the verified path comes to each node, [n]."""
    values = [0.0]
    for node in range(1, len(window)):
        parent = window.parents[node]
        values.append(values[parent] + candidates[parent].logprob(window.tokens[node]))
    return tuple(values)


def reach_by_exit(window: Window, candidates: Sequence[Candidates]) -> tuple[float, ...]:
    """The same by the early exit, [n]: the path passes a node unless the target stops there.

    The exit's candidates leave a node's own children out, so what they have together is the probability of
    stopping; that of passing is shared by the children, which a chain has one of.
    """
    values = [0.0]
    for node in range(1, len(window)):
        parent = window.parents[node]
        stops = sum(math.exp(logprob) for logprob in candidates[parent].logprobs)
        values.append(values[parent] + math.log(max(1.0 - stops, LEAST_PASSING)))
    return tuple(values)


def choose_roots(
    window: Window,
    reach_logprobs: Sequence[float],
    candidates: Sequence[Candidates],
    *,
    budget: int,
    taken: Collection[tuple[int, int]] = (),
) -> list[Root]:
    """The `budget` most probable outcomes that no branch covers yet, best first.

    The value of (node, token) is log P(path comes to node) + log P(token | node). A node's own children are
    left out: were the target to choose one, there would be no correction at that node.

    Args:
        window: the window being verified, n nodes.
        reach_logprobs: `reach` of that window, [n].
        candidates: next-token candidates at each node, from the draft or from the early exit, [n].
        budget: how many roots to return at most.
        taken: outcomes (node, token) that have a branch already.
    """
    covered = set(taken)
    children = [window.child_tokens(node) for node in range(len(window))]
    # Ties break by position, so that two machines with the same numbers choose the same roots.
    ranked = sorted(
        (-(reach_logprobs[node] + logprob), node, token)
        for node, options in enumerate(candidates)
        for token, logprob in zip(options.tokens, options.logprobs, strict=True)
        if token not in children[node] and (node, token) not in covered
    )
    return [Root(node, token, -cost) for cost, node, token in ranked[: max(budget, 0)]]
