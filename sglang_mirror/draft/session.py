"""One request of one target: its tree, its KV, and what is being prepared for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sglang_mirror.core.growth import WindowShape
from sglang_mirror.core.roots import Candidates
from sglang_mirror.draft.backends.base import Cache, Segment
from sglang_mirror.draft.growing import Growing, Standing, grow_behind
from sglang_mirror.draft.rollout import Agreements, Rollout, RolloutSettings
from sglang_mirror.draft.tree import Node, TokenTree
from sglang_mirror.protocol.messages import (
    Branches,
    Committed,
    ExitCandidates,
    FreshWindow,
    Message,
    Stamp,
    Work,
)

# Committed tokens that are computed along with a rollout; more of them are a prefill, in chunks.
SHORT_TEXT = 16


class Session:
    """Holds one request from Open to Close.

    Args:
        stamp: the request as it was opened.
        tokens: the committed tokens.
        awaited: whether the target waits for a window.
        settings: of the request's target.
        cache: an empty KV cache.
        least_awaited: see `growing.grow_behind`; of the window that the target waits for.
    """

    def __init__(
        self,
        stamp: Stamp,
        tokens: Sequence[int],
        *,
        awaited: bool,
        settings: RolloutSettings,
        cache: Cache,
        least_awaited: float,
    ) -> None:
        self.stamp = stamp
        self.awaited = awaited
        self.cache = cache
        self._settings = settings
        self._tree = TokenTree(tokens)
        self._prompt_len = len(tokens)
        # While the target computes a prompt, the draft prepares for its first token, and keeps it to itself:
        # the window that is asked for then has a head start.
        self._quiet = not awaited
        self._agreements = Agreements()
        shape = settings.shape if awaited else WindowShape.chain(0)
        self._rollout = self._roll_out(self._grow(shape, least_awaited))

    def _roll_out(self, window: Growing | Standing) -> Rollout:
        return Rollout(window, self._settings, self._agreements)

    def _grow(self, shape: WindowShape, least_awaited: float) -> Growing:
        return grow_behind(self._tree.root, shape, self._agreements.draft, least_awaited=least_awaited)

    @property
    def num_slots(self) -> int:
        return self._tree.num_slots

    @property
    def signalled(self) -> bool:
        """Whether the exit has said which branches are likely."""
        return self._rollout.signalled

    @property
    def num_prefill(self) -> int:
        """Committed tokens still to be computed in chunks before anything can be rolled out."""
        pending = self._tree.num_pending
        return pending if pending > SHORT_TEXT else 0

    def commit(
        self, committed: Committed, settings: RolloutSettings, *, waits: bool, least_awaited: float
    ) -> None:
        """The window's outcome is known: learn, keep what it leaves alive, and prepare for the next."""
        self._settings = settings
        self._rollout.learn(committed.tokens)
        hit = self._rollout.standing(committed.tokens, committed.window_len) if committed.window_len else None
        move = self._tree.commit(committed.tokens)
        if move is not None:
            self.cache.move(move.slots, move.start)
        self.stamp = committed.stamp
        self.awaited = waits and not committed.window_len
        self._quiet = False
        # What the target verifies now, or waits for.
        shape = settings.shape if waits or committed.window_len else WindowShape.chain(0)
        self._rollout = self._roll_out(hit or self._grow(shape, least_awaited))

    def signal(self, said: ExitCandidates, vocab_size: int) -> None:
        """Candidates of the early exit, as far as the draft knows the tokens and they are chances at all.

        A target that has waited in vain speaks of the root alone, while the window that it asked for grows.
        """
        window, shape = self._rollout.window, [len(tokens) for tokens in said.tokens]
        if not window.complete or len(shape) != window.num_drafted + 1:
            return
        if shape != [len(row) for row in said.logprobs]:
            return
        pairs = zip(said.tokens, said.logprobs, strict=True)
        self._rollout.signal([_known(tokens, logprobs, vocab_size) for tokens, logprobs in pairs])

    def advance(self) -> list[Growing]:
        """Take in what has been computed; the windows that have come to their end with it."""
        return self._rollout.advance()

    def messages(self, work: Work) -> list[Message]:
        """What there is to say to the target now."""
        rollout = self._rollout
        if self._quiet:
            return []
        said: list[Message] = []
        if self.awaited and rollout.window.complete:
            self.awaited = False
            window = rollout.window.window()
            said.append(FreshWindow(self.stamp, window.tokens[1:], window.parents[1:], work))
        branches, phase = rollout.take_due()
        if branches or phase:
            said.append(Branches(self.stamp, branches, phase, work))
        return said

    @property
    def num_urgent(self) -> int:
        """How many of the tips are those of a window that the target waits for."""
        return len(self._rollout.window_tips()) if self.awaited else 0

    def tips(self) -> Iterator[Node]:
        """The nodes to compute next, the most urgent first; none while the text is prefilled."""
        if self.num_prefill:
            return iter(())
        return self._rollout.tips()

    def prefill(self, count: int) -> Segment:
        """The next `count` committed tokens as rows. The root's candidates are wanted if it is among them."""
        tree = self._tree
        first = tree.num_computed
        tree.fill(count)
        rows = range(first, first + count)
        return Segment(
            cache=self.cache,
            tokens=tree.committed[first : first + count],
            positions=rows,
            start=first,
            prefix=first,
            seen=[(2 << row) - 1 for row in range(count)],
            wanted=() if tree.num_pending else (count - 1,),
            streamed=() if tree.num_pending else (count - 1,),
        )

    def rows(self, tips: Sequence[Node]) -> tuple[Segment, list[Node]]:
        """The rows that `tips` need, ancestors first, and the nodes whose candidates they give."""
        tree = self._tree
        start = tree.num_slots
        text = self.prefill(tree.num_pending)
        num_text = len(text.tokens)
        nodes = _uncomputed(tips)
        tree.place(nodes)
        text_bits = (1 << num_text) - 1
        asked = [tree.root, *nodes] if num_text else nodes
        wanted = range(max(num_text - 1, 0), num_text + len(nodes))
        segment = Segment(
            cache=self.cache,
            tokens=[*text.tokens, *[node.token for node in nodes]],
            positions=[*text.positions, *[node.position for node in nodes]],
            start=start,
            prefix=text.prefix,
            seen=[*text.seen, *[node.seen << num_text | text_bits for node in nodes]],
            wanted=wanted,
            streamed=[row for row, node in zip(wanted, asked, strict=True) if node.streamed],
        )
        return segment, asked

    def prefill_targets(self) -> list[Node]:
        """The nodes whose candidates the last prefill chunk gave."""
        return [] if self._tree.num_pending else [self._tree.root]

    def num_prompt_rows(self, segment: Segment) -> int:
        """How many of a segment's rows are the prompt's, whose cost is not a rollout's."""
        return sum(position < self._prompt_len - 1 for position in segment.positions)


def _known(tokens: Sequence[int], logprobs: Sequence[float], vocab_size: int) -> Candidates:
    kept = [(t, p) for t, p in zip(tokens, logprobs, strict=True) if 0 <= t < vocab_size and p <= 0.0]
    return Candidates(tuple(t for t, _ in kept), tuple(p for _, p in kept))


def _uncomputed(tips: Sequence[Node]) -> list[Node]:
    """The tips and their uncomputed ancestors below the root, ancestors first, each once."""
    nodes: dict[Node, None] = {}
    for tip in tips:
        if tip.parent is not None and tip.parent.computed and not tip.computed:  # as most are
            nodes[tip] = None
            continue
        path = []
        node: Node | None = tip
        while node is not None and node.parent is not None and not node.computed:
            path.append(node)
            node = node.parent
        nodes.update(dict.fromkeys(reversed(path)))
    return list(nodes)
