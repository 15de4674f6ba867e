"""Roots: the outcomes that the draft prepares a branch for while the target still verifies."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from sglang_mirror.core.agreement import LEAST, MOST, Agreement
from sglang_mirror.core.window import Window

RootMode = Literal["exit", "draft", "union", "none"]
Source = Literal["draft", "exit"]

# Share of the budget that phase 1 (the draft's own logits) may spend when the signal follows. A trained exit
# finds a correction more often than the draft does, but it comes when half of the time is over.
PHASE_1_SHARE = 0.625


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


def phase_budgets(mode: RootMode, budget: int, *, signals: bool = True) -> tuple[int, int]:
    """Roots that phase 1 (the draft's logits) and both phases together may spend.

    Args:
        mode: whose candidates become roots.
        budget: of a step and request.
        signals: whether the early exit will say anything; what would be its is the draft's otherwise.
    """
    if mode == "none":
        return 0, 0
    if mode == "exit":
        return 0, budget
    if mode == "draft" or not signals:
        return budget, budget
    return math.ceil(budget * PHASE_1_SHARE), budget


@dataclass(frozen=True, slots=True)
class Chances:
    """What a guesser says of where verification will stop; logarithms of probabilities, one a node.

    Attributes:
        reach: that the verified path comes to the node, [n].
        stop: that it stops there once it has come, as a share of what the guesser gives to tokens other than
            the node's children: with a candidate's own log-probability it makes P(outcome | path came). [n]
        passing: that it goes on, as the guesser has it before its agreement is weighed; 0 at leaves. [n]
    """

    reach: tuple[float, ...]
    stop: tuple[float, ...]
    passing: tuple[float, ...]

    def value(self, node: int, logprob: float) -> float:
        """Log-probability of the outcome (node, token), the guesser giving `logprob` to that token."""
        return self.reach[node] + self.stop[node] + logprob


def chances(window: Window, candidates: Sequence[Candidates], agreement: Agreement) -> Chances:
    """By the draft: the path passes a node with the draft's probability of its children."""
    children = [window.children(node) for node in range(len(window))]
    shares = [
        [math.exp(candidates[node].logprob(window.tokens[child])) for child in below]
        for node, below in enumerate(children)
    ]
    return _chances(children, shares, agreement)


def chances_by_exit(window: Window, candidates: Sequence[Candidates], agreement: Agreement) -> Chances:
    """By the early exit: the path passes a node unless the target stops there.

    Its candidates leave a node's own children out, so what they have together is the probability of stopping;
    that of passing is shared by the children, which a chain has one of.
    """
    children = [window.children(node) for node in range(len(window))]
    shares = []
    for node, below in enumerate(children):
        passing = 1.0 - sum(math.exp(logprob) for logprob in candidates[node].logprobs)
        shares.append([max(passing, LEAST) / len(below) for _ in below])
    return _chances(children, shares, agreement)


def _chances(
    children: Sequence[Sequence[int]], shares: Sequence[Sequence[float]], agreement: Agreement
) -> Chances:
    """`shares`: what the guesser gives to each child of each node."""
    reach, stop, passing = [0.0] * len(children), [0.0] * len(children), [0.0] * len(children)
    for node, (below, given) in enumerate(zip(children, shares, strict=True)):
        if not below:
            continue
        total = max(sum(given), LEAST)
        passes = min(total, MOST)
        passing[node] = math.log(passes)
        agrees = agreement.probability(passing[node])
        stop[node] = math.log1p(-agrees) - math.log1p(-passes)
        for child, share in zip(below, given, strict=True):
            reach[child] = reach[node] + math.log(agrees * max(share, LEAST) / total)
    return Chances(tuple(reach), tuple(stop), tuple(passing))


def learn(agreement: Agreement, window: Window, said: Chances, committed: Sequence[int]) -> None:
    """Let `agreement` see where the target agreed with the window, from the tokens that were committed."""
    node = 0
    for token in committed:
        below = window.children(node)
        if not below:
            return
        agreeing = next((child for child in below if window.tokens[child] == token), None)
        agreement.observe(said.passing[node], agreeing is not None)
        if agreeing is None:
            return
        node = agreeing


def choose_roots(
    window: Window,
    said: Chances,
    candidates: Sequence[Candidates],
    *,
    budget: int,
    taken: Collection[tuple[int, int]] = (),
) -> list[Root]:
    """The `budget` most probable outcomes that no branch covers yet, best first.

    The value of (node, token) is log P(path comes to node) + log P(stops there) + log P(token | stops there).
    A node's own children are left out: were the target to choose one, there would be no correction at it.

    Args:
        window: the window being verified, n nodes.
        said: the guesser's chances in that window.
        candidates: next-token candidates at each node, from the draft or from the early exit, [n].
        budget: how many roots to return at most.
        taken: outcomes (node, token) that have a branch already.
    """
    covered = set(taken)
    children = [window.child_tokens(node) for node in range(len(window))]
    # Ties break by position, so that two machines with the same numbers choose the same roots.
    ranked = sorted(
        (-said.value(node, logprob), node, token)
        for node, options in enumerate(candidates)
        for token, logprob in zip(options.tokens, options.logprobs, strict=True)
        if token not in children[node] and (node, token) not in covered
    )
    return [Root(node, token, -cost) for cost, node, token in ranked[: max(budget, 0)]]
