"""Windows on the draft's tree: one that grows with each forward, and one that stands as the target has it.

With a streaming draft a forward computes, along with each node that is due, the tokens that the streams guess
behind it. Where the guess was right the window grows by several nodes at once; where not, it grows by one.
What the streams say of the window's last tokens is taken as it is: the target will check it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from sglang_mirror.core.agreement import Agreement
from sglang_mirror.core.growth import Growth, WindowShape
from sglang_mirror.core.window import Window
from sglang_mirror.draft.growing_chain import GrowingChain
from sglang_mirror.draft.tree import Node


class GrowingTree:
    """A window of any shape in the making; see `grow_behind`.

    Attributes:
        forwards: that it has taken.
    """

    __slots__ = (
        "_growth",
        "_is_ended",
        "_known",
        "_least_awaited",
        "_streamed",
        "_whole",
        "forwards",
        "shape",
    )

    def __init__(
        self, root: Node, shape: WindowShape, agreement: Agreement, *, streamed: bool, least_awaited: float
    ) -> None:
        self.shape, self.forwards = shape, 0
        self._least_awaited, self._is_ended = least_awaited, False
        self._streamed = root.streamed = streamed
        self._growth = Growth(root.token, shape, agreement)
        self._known = [root]  # by the growth's numbers
        self._whole: Window | None = None  # once it is complete

    @property
    def complete(self) -> bool:
        return self._is_ended or not self._growth.open

    @property
    def nodes(self) -> list[Node]:
        """Its nodes so far, parents before their children."""
        return [self._known[number] for number in self._growth.chosen]

    @property
    def num_drafted(self) -> int:
        return len(self._growth.chosen) - 1

    @property
    def depth(self) -> int:
        """Draft tokens on its longest path so far."""
        return self._growth.depth

    def extend(self) -> bool:
        """Take in what has been computed since; whether it is complete."""
        growth, known = self._growth, self._known
        told = False
        while growth.open:
            said = {}
            for number in growth.open:
                found = known[number].candidates
                if found is not None:
                    said[number] = found
            if not said:
                break
            growth.expand(said)
            self._know()
            told = True
        self.forwards += told  # also by one that said no more than that the window had better end
        if growth.open and all(map(self._can_be_guessed, growth.open)):
            self._guess_the_rest()
        if self._least_awaited > -math.inf and growth.open:
            self._is_ended = math.log(sum(map(self._most_behind, growth.open))) < self._least_awaited
        return self.complete

    def _most_behind(self, number: int) -> float:
        """Tokens that a forward can bring behind a node: all that it computes, if the path comes to it."""
        parent = self._known[number].parent if number else None
        return math.exp(self._growth.nodes[number].value) * (1 + (len(parent.ahead) if parent else 0))

    def _know(self) -> None:
        known = self._known
        for found in self._growth.nodes[len(known) :]:
            child = known[found.parent].child(found.token)
            child.streamed = self._streamed
            known.append(child)

    def _can_be_guessed(self, number: int) -> bool:
        """Whether streams reach from the node before it to the window's depth."""
        parent = self._known[number].parent
        if not number or parent is None or not parent.ahead:
            return False
        return self._growth.nodes[number].depth + len(parent.ahead) >= self.shape.depth

    def _guess_the_rest(self) -> None:
        said = {}
        for number in self._growth.open:
            parent = self._known[number].parent
            assert parent is not None
            said[number] = parent.ahead
        while self._growth.open:
            first = len(self._known)
            self._growth.expand({number: said[number][0] for number in self._growth.open})
            self._know()
            for child in range(first, len(self._known)):
                said[child] = said[self._growth.nodes[child].parent][1:]

    def tips(self) -> list[Node]:
        """The nodes to compute next, the most valuable first, each with the tokens guessed behind it."""
        return [] if self.complete else [self._with_guesses(number) for number in self._growth.open]

    def _with_guesses(self, number: int) -> Node:
        node = self._known[number]
        if node.parent is None or not node.parent.ahead or self._growth.nodes[number].path[-1:] != (0,):
            return node
        depth = self._growth.nodes[number].depth
        for said in node.parent.ahead[: self.shape.depth - depth]:
            if not said.tokens:
                break
            node = node.child(said.tokens[0])
        return node

    def window(self) -> Window:
        """It so far. The whole is asked for many times a step, and made once."""
        if not self.complete:
            return self._growth.window()
        if self._whole is None:
            self._whole = self._growth.window()
        return self._whole


# A chain is the tree with one child a node; it has a class of its own because it is most of the work.
Growing = GrowingTree | GrowingChain


def grow_behind(
    root: Node,
    shape: WindowShape,
    agreement: Agreement,
    *,
    streamed: bool = True,
    least_awaited: float = -math.inf,
) -> Growing:
    """A window in the making behind a node.

    Args:
        root: the node.
        shape: bounds of the window.
        agreement: how often the target agrees with the draft.
        streamed: whether its nodes are computed along with what a streaming draft guesses behind them.
        least_awaited: where the target waits for it, log-probability of what another forward can bring, below
            which it is not worth the wait; `core.worth.least_awaited`.
    """
    kind = GrowingChain if shape.topk == 1 else GrowingTree
    return kind(root, shape, agreement, streamed=streamed, least_awaited=least_awaited)


class Standing:
    """A window that the target has already; see `grow_behind`.

    Args:
        nodes: its nodes, parents before their children.
        window: the same as the target has it.
    """

    __slots__ = ("_window", "nodes")

    complete = True

    def __init__(self, nodes: Sequence[Node], window: Window) -> None:
        self.nodes, self._window = list(nodes), window

    @property
    def num_drafted(self) -> int:
        return len(self.nodes) - 1

    def extend(self) -> bool:
        return True

    def tips(self) -> list[Node]:
        return []

    def window(self) -> Window:
        return self._window
