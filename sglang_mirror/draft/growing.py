"""Windows on the draft's tree: one that grows with each forward, and one that stands as the target has it."""

from __future__ import annotations

from collections.abc import Sequence

from sglang_mirror.core.agreement import Agreement
from sglang_mirror.core.growth import Growth, WindowShape
from sglang_mirror.core.window import Window
from sglang_mirror.draft.tree import Node


class Growing:
    """A window in the making behind a node.

    Args:
        root: the node.
        shape: bounds of the window.
        agreement: how often the target agrees with the draft.
    """

    __slots__ = ("_growth", "_known", "shape")

    def __init__(self, root: Node, shape: WindowShape, agreement: Agreement) -> None:
        self.shape = shape
        self._growth = Growth(root.token, shape, agreement)
        self._known = [root]  # by the growth's numbers

    @property
    def complete(self) -> bool:
        return self._growth.complete

    @property
    def root(self) -> Node:
        return self._known[0]

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
        return max(self._growth.nodes[number].depth for number in self._growth.chosen)

    def extend(self) -> bool:
        """Take in what has been computed since; whether it is complete."""
        growth, known = self._growth, self._known
        while ready := [number for number in growth.open if known[number].candidates is not None]:
            node = known[ready[0]]
            assert node.candidates is not None
            growth.expand(ready[0], node.candidates)
            known += [node.child(found.token) for found in growth.nodes[len(known) :]]
        return growth.complete

    def tips(self) -> list[Node]:
        """The nodes to compute next, the most valuable first."""
        return [self._known[number] for number in self._growth.open]

    def window(self) -> Window:
        return self._growth.window()


class Standing:
    """A window that the target has already; see `Growing`.

    Args:
        nodes: its nodes, parents before their children.
        window: the same as the target has it.
    """

    __slots__ = ("_window", "nodes")

    complete = True

    def __init__(self, nodes: Sequence[Node], window: Window) -> None:
        self.nodes, self._window = list(nodes), window

    @property
    def root(self) -> Node:
        return self.nodes[0]

    @property
    def num_drafted(self) -> int:
        return len(self.nodes) - 1

    def extend(self) -> bool:
        return True

    def tips(self) -> list[Node]:
        return []

    def window(self) -> Window:
        return self._window
