"""The window: the draft tokens that one target forward verifies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


def depths(parents: Sequence[int]) -> list[int]:
    """Depth of each node of a tree whose parents come before their children; the root's is 0."""
    found = [0]
    for parent in parents[1:]:
        found.append(found[parent] + 1)
    return found


@dataclass(frozen=True, slots=True)
class Window:
    """A tree of tokens whose root (node 0) is the last committed token.

    Attributes:
        tokens: token of each node, the root included.
        parents: parent node of each node; -1 for the root. Parents come before their children.

    Raises:
        ValueError: the parents do not describe a tree in that order.
    """

    tokens: tuple[int, ...]
    parents: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.tokens or len(self.tokens) != len(self.parents):
            raise ValueError("a window has a root, and one parent for each token")
        if self.parents[0] != -1:
            raise ValueError(f"node 0 is the root and has no parent, found {self.parents[0]}")
        for node, parent in enumerate(self.parents[1:], start=1):
            if not 0 <= parent < node:
                raise ValueError(f"node {node} has parent {parent}, which does not come before it")

    @classmethod
    def chain(cls, root: int, draft_tokens: Sequence[int]) -> Window:
        """The tree with one child a node: `root`, then `draft_tokens` one after another."""
        return cls((root, *draft_tokens), tuple(range(-1, len(draft_tokens))))

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def root(self) -> int:
        return self.tokens[0]

    def children(self, node: int) -> tuple[int, ...]:
        """Nodes whose parent is `node`, in the order in which verification tries them."""
        return tuple(i for i in range(node + 1, len(self.tokens)) if self.parents[i] == node)

    def first(self, count: int) -> Window:
        """Its first `count` nodes."""
        if count >= len(self.tokens):
            return self
        return Window(self.tokens[:count], self.parents[:count])

    def reached(self, tokens: Sequence[int]) -> int | None:
        """The node that the path of `tokens` from the root ends at; None if it has no such path."""
        node = 0
        for token in tokens:
            below = [child for child in self.children(node) if self.tokens[child] == token]
            if not below:
                return None
            node = below[0]
        return node

    def child_tokens(self, node: int) -> frozenset[int]:
        """Tokens that cannot be a correction at `node`: the target choosing one would accept it."""
        return frozenset(self.tokens[child] for child in self.children(node))
