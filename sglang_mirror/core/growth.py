"""How a window grows: the tokens that the target will most probably choose, one forward after another.

A node's value is the probability that the verified path comes to it, so the sum of a window's values is how
many of its tokens will be accepted on average: the best window of n tokens has the n most valuable nodes (as
in EAGLE-2, arXiv 2406.16858, section 4.2, which takes the draft at its word; `core.agreement` does not).
A child is worth less than its parent, so those nodes hang together, in whatever order they were found.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from sglang_mirror.core.agreement import LEAST, Agreement
from sglang_mirror.core.roots import Candidates
from sglang_mirror.core.window import Window


@dataclass(frozen=True, slots=True)
class WindowShape:
    """Bounds of a window.

    Attributes:
        depth: draft tokens on its longest path.
        topk: children a node; 1 makes a chain.
        size: draft tokens in all.
        least: log-probability that the verified path must come to a node with, for it to be worth verifying.
    """

    depth: int
    topk: int
    size: int
    least: float = -math.inf

    @classmethod
    def chain(cls, depth: int) -> WindowShape:
        return cls(depth, 1, depth)

    @property
    def num_nodes(self) -> int:
        """Nodes in all, the root included."""
        return self.size + 1

    def of_size(self, size: int) -> WindowShape:
        """The same with so few draft tokens; none of its paths is longer than all of them."""
        return dataclasses.replace(self, depth=min(self.depth, size), size=size)


def child_chances(candidates: Candidates, topk: int, agreement: Agreement) -> list[tuple[int, float]]:
    """The first `topk` candidates, and the log-probability that the target goes there from their node.

    It agrees with the first as often as it has before; what is left is shared as the draft has it, no other
    being more likely than the first.
    """
    if not candidates.tokens:
        return []
    first = candidates.logprobs[0]
    agrees = agreement.probability(first)
    rest = math.log1p(-agrees) - math.log(max(-math.expm1(min(first, -LEAST)), LEAST))
    pairs = list(zip(candidates.tokens, candidates.logprobs, strict=True))[:topk]
    return [
        (token, math.log(agrees) if rank == 0 else min(rest + logprob, math.log(agrees), math.log1p(-agrees)))
        for rank, (token, logprob) in enumerate(pairs)
    ]


class Grown(NamedTuple):
    """A node that the window has, or could have.

    Attributes:
        token: its token.
        parent: the number of the node before it; -1 for the root.
        path: its rank among its siblings, and those of the nodes before it, the root's child first.
        value: log-probability that the verified path comes to it.
    """

    token: int
    parent: int
    path: tuple[int, ...]
    value: float

    @property
    def depth(self) -> int:
        return len(self.path)


class Growth:
    """Finds the most valuable nodes behind a root.

    Args:
        root: its token.
        shape: of the window.
        agreement: how often the target agrees with the draft.

    Attributes:
        nodes: all that are known, numbered as they were found; the root is 0.
        chosen: numbers of the window's nodes, the most valuable first: the root, and parents before children.
        depth: draft tokens on the window's longest path.
        open: numbers of the window's nodes whose children are not known yet, the most valuable first.
    """

    def __init__(self, root: int, shape: WindowShape, agreement: Agreement) -> None:
        self._shape, self._agreement = shape, agreement
        self.nodes = [Grown(root, -1, (), 0.0)]
        self._expanded: set[int] = set()
        self.chosen, self.depth = [0], 0
        self.open = [0] if shape.depth and shape.size else []

    @property
    def complete(self) -> bool:
        return not self.open

    def expand(self, said: Mapping[int, Candidates]) -> None:
        """The draft's next tokens after these nodes are known, by their numbers; all are open."""
        for number, candidates in said.items():
            self._have_children(number, candidates)
        ranked = sorted(
            range(len(self.nodes)), key=lambda each: (-self.nodes[each].value, self.nodes[each].path)
        )
        self.chosen = self._worth(ranked[: self._shape.num_nodes])
        self.depth = max(self.nodes[each].depth for each in self.chosen)
        self.open = [
            each
            for each in self.chosen
            if each not in self._expanded and self.nodes[each].depth < self._shape.depth
        ]

    def _have_children(self, number: int, candidates: Candidates) -> None:
        node = self.nodes[number]
        self._expanded.add(number)
        chances = child_chances(candidates, self._shape.topk, self._agreement)
        for rank, (token, chance) in enumerate(chances):
            self.nodes.append(Grown(token, number, (*node.path, rank), node.value + chance))

    def _worth(self, ranked: list[int]) -> list[int]:
        """Those that are worth verifying; the root's best child whatever it is worth."""
        least = self._shape.least
        return [each for place, each in enumerate(ranked) if place < 2 or self.nodes[each].value >= least]

    def window(self) -> Window:
        """The window as far as it has grown."""
        places = {number: place for place, number in enumerate(self.chosen)}
        nodes = [self.nodes[number] for number in self.chosen]
        return Window(
            tuple(node.token for node in nodes), tuple(places.get(node.parent, -1) for node in nodes)
        )
