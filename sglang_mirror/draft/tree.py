"""One request's tokens in the draft: the committed text, and the tree of guesses behind it.

Slots number the places of a request's KV cache. Committed position i lives in slot i; the computed nodes of
the tree take the slots behind the committed text, in the order in which they were computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sglang_mirror.core.roots import Candidates

NOT_COMPUTED = -1


class Node:
    """One token of the tree.

    Attributes:
        token: its id.
        parent: the node before it; None for the root.
        position: its place in the text, from 0.
        slot: where its KV is; NOT_COMPUTED until it goes into a forward.
        seen: the tree slots it attends to, its own included: bit i stands for slot `base + i`.
        candidates: the draft's next tokens after it, once computed and asked for.
        streamed: whether a streaming draft is asked for more than the next token.
        ahead: what it says then: candidates for the tokens after the next, one a stream.
        children: by token.
    """

    __slots__ = ("ahead", "candidates", "children", "parent", "position", "seen", "slot", "streamed", "token")

    def __init__(self, token: int, parent: Node | None, position: int) -> None:
        self.token = token
        self.parent = parent
        self.position = position
        self.slot = NOT_COMPUTED
        self.seen = 0
        self.candidates: Candidates | None = None
        self.streamed = True
        self.ahead: tuple[Candidates, ...] = ()
        self.children: dict[int, Node] = {}

    @property
    def computed(self) -> bool:
        return self.slot != NOT_COMPUTED

    def child(self, token: int) -> Node:
        """The child that carries `token`, made if there is none."""
        node = self.children.get(token)
        if node is None:
            node = self.children[token] = Node(token, self, self.position + 1)
        return node


@dataclass(frozen=True, slots=True)
class Move:
    """KV to gather: what is in `slots` belongs into the slots from `start` on, in that order."""

    slots: list[int]
    start: int


class TokenTree:
    """The committed text and the tree behind it, whose root is the last committed token.

    A node is computed only after its ancestors, so while committed tokens lack KV the tree has none either.

    Args:
        tokens: the committed tokens, at least one.

    Attributes:
        committed: the committed tokens, the root being the last.
        num_computed: how many of them have KV.
        num_slots: slots in use; the next forward writes from there on.
        root: the tree's root.
    """

    def __init__(self, tokens: Sequence[int]) -> None:
        self.committed = list(tokens)
        self.num_computed = 0
        self.num_slots = 0
        self.root = Node(self.committed[-1], None, len(self.committed) - 1)

    @property
    def base(self) -> int:
        """The first slot behind the committed text."""
        return len(self.committed)

    @property
    def num_pending(self) -> int:
        """Committed tokens without KV, the root included."""
        return len(self.committed) - self.num_computed

    def fill(self, count: int) -> None:
        """The next `count` committed tokens go into a forward; from now on they count as computed."""
        self.num_computed += count
        self.num_slots += count
        if not self.num_pending:
            self.root.slot = self.base - 1

    def place(self, nodes: Iterable[Node]) -> None:
        """`nodes` take the next slots, one behind another; the parent of each has one by then."""
        base, slot = self.base, self.num_slots
        for node in nodes:
            node.slot = slot
            node.seen = (node.parent.seen if node.parent is not None else 0) | 1 << (slot - base)
            slot += 1
        self.num_slots = slot

    def commit(self, tokens: Sequence[int]) -> Move | None:
        """Walk from the root by `tokens`; the walked path is committed, its end is the root, the rest dies.

        Args:
            tokens: at least one; tokens that the tree lacks become committed tokens without KV.

        Returns:
            the KV to move so that the walked path is contiguous and what survives is behind it, or None.
        """
        old_base, path = self.base, [self.root]
        for token in tokens:
            path.append(path[-1].child(token))
        walked = [node.slot for node in path[1:] if node.computed]
        self.committed += tokens
        self.root = path[-1]
        self.root.parent = None
        self.num_computed += len(walked)
        slots = walked + self._settle_survivors()
        self.num_slots = self.num_computed + len(slots) - len(walked)
        if slots == list(range(old_base, old_base + len(slots))):
            return None
        return Move(slots, old_base)

    def _settle_survivors(self) -> list[int]:
        """Give the nodes below the new root their new slots, parents first; returns their old ones."""
        if not self.root.computed:
            return []
        self.root.slot, self.root.seen = self.base - 1, 0
        below = [self.root]
        for node in below:
            below += [child for child in node.children.values() if child.computed]
        old = [node.slot for node in below[1:]]
        for offset, node in enumerate(below[1:]):
            node.slot = self.base + offset
            node.seen = (node.parent.seen if node.parent is not None else 0) | 1 << offset
        return old
