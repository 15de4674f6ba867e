"""What the draft prepares for one state of a request: the window, then branches for its outcomes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from sglang_mirror.core.agreement import Agreement
from sglang_mirror.core.roots import (
    Candidates,
    Chances,
    RootMode,
    Source,
    chances,
    chances_by_exit,
    choose_roots,
    learn,
    phase_budgets,
)
from sglang_mirror.core.window import Window
from sglang_mirror.draft.tree import Node
from sglang_mirror.protocol.messages import RolledOut

NOTHING_KNOWN = Candidates((), ())

# A branch is sent as soon as it has this share of its draft tokens, and again when it has them all: the last
# tokens are seldom accepted, and an outcome that comes meanwhile need not wait for them.
SENT_FROM = 0.6


@dataclass(frozen=True, slots=True)
class RolloutSettings:
    """What a target's requests share: see `protocol.messages.Hello`."""

    gamma: int
    kappa: int
    roots: RootMode
    root_budget: int


@dataclass(slots=True)
class Agreements:
    """How often the target agrees with each guesser, as this request has shown."""

    draft: Agreement = field(default_factory=Agreement)
    exit: Agreement = field(default_factory=Agreement)


class Chain:
    """The draft's most probable continuation of a node: itself, then up to `depth` draft tokens."""

    __slots__ = ("depth", "nodes")

    def __init__(self, root: Node, depth: int) -> None:
        self.depth = depth
        self.nodes = [root]

    @property
    def complete(self) -> bool:
        return len(self.nodes) > self.depth

    @property
    def tip(self) -> Node:
        return self.nodes[-1]

    def extend(self) -> bool:
        """Take in what has been computed since; whether the chain is complete."""
        while not self.complete and self.tip.candidates is not None:
            self.nodes.append(self.tip.child(self.tip.candidates.tokens[0]))
        return self.complete

    @property
    def num_drafted(self) -> int:
        return len(self.nodes) - 1

    @property
    def draft_tokens(self) -> tuple[int, ...]:
        return tuple(node.token for node in self.nodes[1:])

    @property
    def parents(self) -> tuple[int, ...]:
        """Parent of each draft token as a node of the window, whose root is node 0."""
        return tuple(range(len(self.nodes) - 1))


@dataclass(slots=True)
class Prepared:
    """A branch on its way: the chain after outcome (node, token).

    Attributes:
        sent: how many of its draft tokens the target has.
    """

    node: int
    source: Source
    chain: Chain
    sent: int = 0

    @property
    def finished(self) -> bool:
        """Whether the target has all of it."""
        return self.sent == self.chain.depth

    @property
    def due(self) -> bool:
        """Whether there is enough of it to be sent now."""
        if self.chain.complete:
            return not self.finished
        return not self.sent and self.chain.num_drafted >= SENT_FROM * self.chain.depth

    def rolled_out(self) -> RolledOut:
        chain = self.chain
        return RolledOut(self.node, chain.nodes[0].token, self.source, chain.draft_tokens, chain.parents)


class Rollout:
    """The window after one commit and its branches.

    Args:
        root: the last committed token.
        settings: of the request's target.
        agreements: of the request; they learn from each outcome.
        depth: of the window; 0 while the target computes a prompt: the root is all that it verifies.

    Attributes:
        window: the chain that the target verifies next.
        branches: by outcome (node, token), the most valuable first, by the draft or the exit once it spoke.
        signalled: whether the exit's candidates have been taken in.
    """

    def __init__(self, root: Node, settings: RolloutSettings, agreements: Agreements, *, depth: int) -> None:
        self.settings = settings
        self.window = Chain(root, depth)
        self.branches: dict[tuple[int, int], Prepared] = {}
        self._agreements = agreements
        self._first, self._total = phase_budgets(settings.roots, settings.root_budget)
        self._by_draft: Chances | None = None
        self._by_exit: Chances | None = None
        self._signal: Sequence[Candidates] | None = None
        # Whether a phase's roots are chosen, and the last phase that was reported as sent.
        self._chosen = {1: self._first == 0, 2: self._total == self._first}
        self._reported = 0

    @property
    def signalled(self) -> bool:
        return self._by_exit is not None

    def signal(self, candidates: Sequence[Candidates]) -> None:
        """The early exit's candidates at each node of the window, [n]; its own children left out."""
        if self._signal is None and not self._chosen[2]:
            self._signal = candidates

    def learn(self, committed: Sequence[int]) -> None:
        """The window has been verified: what both guessers said of it is compared with the outcome."""
        for agreement, said in (
            (self._agreements.draft, self._by_draft),
            (self._agreements.exit, self._by_exit),
        ):
            if said is not None:
                learn(agreement, self._as_window(), said, committed)

    def advance(self) -> None:
        """Take in what has been computed: the window grows, roots are chosen, branches grow."""
        if not self.window.extend():
            return
        if self._by_draft is None and self._first:
            self._by_draft = chances(self._as_window(), self._own_candidates(), self._agreements.draft)
        if self._by_draft is not None and not self._chosen[1]:
            self._choose_from_own(self._by_draft)
        if self._chosen[1] and self._signal is not None and not self._chosen[2]:
            self._choose_from_signal(self._signal)
        for branch in self.branches.values():
            if not branch.finished:
                branch.chain.extend()

    def tips(self) -> Iterator[Node]:
        """The nodes to compute next, the most urgent first."""
        window = self.window
        needs_tip = not self._chosen[1] or not window.depth
        if not window.complete or (needs_tip and not window.tip.computed):
            yield window.tip
        for branch in self.branches.values():
            if not branch.chain.complete:
                yield branch.chain.tip

    def take_due(self) -> tuple[tuple[RolledOut, ...], int]:
        """Branches to send now, and the phase that is complete with them (0: none)."""
        due = [branch for branch in self.branches.values() if branch.due]
        for branch in due:
            branch.sent = branch.chain.num_drafted
        return tuple(branch.rolled_out() for branch in due), self._phase_now_sent()

    def _phase_now_sent(self) -> int:
        sources: dict[int, Source] = {1: "draft", 2: "exit"}
        budgets = {1: self._first, 2: self._total - self._first}
        sent = 0
        for phase, source in sources.items():
            if not budgets[phase]:
                continue
            if not self._chosen[phase] or any(
                not b.finished for b in self.branches.values() if b.source == source
            ):
                break
            sent = phase
        if sent <= self._reported:
            return 0
        self._reported = sent
        return sent

    def _as_window(self) -> Window:
        return Window.chain(self.window.nodes[0].token, self.window.draft_tokens)

    def _own_candidates(self) -> list[Candidates]:
        return [node.candidates or NOTHING_KNOWN for node in self.window.nodes]

    def _choose(self, said: Chances, candidates: Sequence[Candidates], budget: int, source: Source) -> None:
        taken = self.branches.keys()
        roots = choose_roots(self._as_window(), said, candidates, budget=budget, taken=taken)
        for root in roots:
            self._start(root.node, root.token, source)

    def _start(self, node: int, token: int, source: Source) -> None:
        chain = Chain(self.window.nodes[node].child(token), self.settings.gamma)
        self.branches[node, token] = Prepared(node, source, chain)

    def _choose_from_signal(self, candidates: Sequence[Candidates]) -> None:
        """Phase 2: new roots from the exit, and its order for all: it judges better what is coming."""
        said = self._by_exit = chances_by_exit(self._as_window(), candidates, self._agreements.exit)
        self._choose(said, candidates, self._total - len(self.branches), "exit")
        self._chosen[2] = True

        def cost(outcome: tuple[int, int]) -> float:
            node, token = outcome
            return -said.value(node, candidates[node].logprob(token))

        self.branches = {outcome: self.branches[outcome] for outcome in sorted(self.branches, key=cost)}

    def _choose_from_own(self, said: Chances) -> None:
        """Phase 1. Before the last node has candidates, start the roots that these cannot displace.

        The m-th most probable token after the last node has at most probability 1/m, so of its tokens no more
        than exp(reach - value) can be worth more than a root of that value. It saves most branches a forward.
        """
        own = self._own_candidates()
        if self.window.tip.candidates is not None:
            self._choose(said, own, self._first - len(self.branches), "draft")
            self._chosen[1] = True
            return
        if self.branches:
            return
        most = self.settings.kappa + 1
        roots = choose_roots(self._as_window(), said, own, budget=self._first)
        for rank, root in enumerate(roots):
            margin = said.reach[-1] - root.value
            rivals = math.floor(math.exp(margin)) if margin < math.log(most) else most
            if rank + rivals >= self._first:
                break
            self._start(root.node, root.token, "draft")
