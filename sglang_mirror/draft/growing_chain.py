"""A window with one child a node, as it grows: what most are, and most of the draft's own arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sglang_mirror.core.agreement import Agreement
from sglang_mirror.core.growth import WindowShape
from sglang_mirror.core.roots import Candidates
from sglang_mirror.core.window import Window
from sglang_mirror.draft.tree import Node


class GrowingChain:
    """See `growing.grow_behind`. The window is what `core.growth.Growth` would find, in fewer words.

    Attributes:
        nodes: so far, one behind another.
        shape: as given.
        complete: whether it has come to its end.
        forwards: that it has taken.
    """

    __slots__ = (
        "_agreement",
        "_depth",
        "_is_weighed",
        "_least_awaited",
        "_streamed",
        "_value",
        "_whole",
        "complete",
        "forwards",
        "nodes",
        "shape",
    )

    def __init__(
        self, root: Node, shape: WindowShape, agreement: Agreement, *, streamed: bool, least_awaited: float
    ) -> None:
        self.shape, self.forwards, self.nodes = shape, 0, [root]
        self._agreement, self._streamed = agreement, streamed
        self._depth = min(shape.depth, shape.size)
        self._least_awaited = least_awaited
        self._is_weighed = max(shape.least, least_awaited) > -math.inf
        self._value = 0.0  # log-probability that the verified path comes to the last node
        self._whole: Window | None = None
        root.streamed = streamed
        self.complete = not self._depth

    @property
    def depth(self) -> int:
        return len(self.nodes) - 1

    @property
    def num_drafted(self) -> int:
        return self.depth

    def extend(self) -> bool:
        """Take in what has been computed since; whether it is complete."""
        told = False
        while not self.complete and (said := self.nodes[-1].candidates) is not None:
            self._go_on(said)
            told = True
        self.forwards += told  # also by one that said no more than that the window had better end
        if not self.complete:
            self._guess_the_rest()
        if self._least_awaited > -math.inf and not self.complete:
            # No forward brings more than what it computes being right, if the last node is.
            most = self._value + math.log(1 + len(self._ahead))
            self.complete = most < self._least_awaited
        return self.complete

    def _go_on(self, said: Candidates) -> None:
        """The most probable token comes next, unless it is not worth its row; the first always is."""
        nodes = self.nodes
        if not said.tokens:
            self.complete = True
            return
        if self._is_weighed:
            self._value += math.log(self._agreement.probability(said.logprobs[0]))
            if self._value < self.shape.least and len(nodes) > 1:
                self.complete = True
                return
        child = nodes[-1].child(said.tokens[0])
        child.streamed = self._streamed
        nodes.append(child)
        self.complete = len(nodes) > self._depth

    def _guess_the_rest(self) -> None:
        """If the streams reach from the node before the last one to the window's end, it ends as they say."""
        ahead = self._ahead
        if ahead and self.depth + len(ahead) >= self._depth:
            for said in ahead:
                if not self.complete:
                    self._go_on(said)

    @property
    def _ahead(self) -> Sequence[Candidates]:
        """What the streams of the node before the last one, whose first choice that is, guess behind it."""
        return self.nodes[-2].ahead if len(self.nodes) > 1 else ()

    def tips(self) -> list[Node]:
        """The node to compute next, with the tokens guessed behind it."""
        if self.complete:
            return []
        node = self.nodes[-1]
        for said in self._ahead[: self._depth - self.depth]:
            if not said.tokens:
                break
            node = node.child(said.tokens[0])
        return [node]

    def window(self) -> Window:
        """It so far. The whole is asked for many times a step, and made once."""
        if self._whole is not None:
            return self._whole
        found = Window.chain(self.nodes[0].token, [node.token for node in self.nodes[1:]])
        if self.complete:
            self._whole = found
        return found
