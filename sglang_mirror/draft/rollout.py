"""What the draft prepares for one state of a request: the window, then branches for its outcomes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from sglang_mirror.core.agreement import Agreement
from sglang_mirror.core.growth import WindowShape
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
from sglang_mirror.draft.growing import Growing, Standing, grow_behind
from sglang_mirror.draft.tree import Node
from sglang_mirror.protocol.messages import RolledOut

NOTHING_KNOWN = Candidates((), ())

# A branch is sent as soon as it has this share of its draft tokens, and again when it has them all: the last
# tokens are seldom accepted, and an outcome that comes meanwhile need not wait for them.
SENT_FROM = 0.6


@dataclass(frozen=True, slots=True)
class RolloutSettings:
    """What a target's requests share: see `protocol.messages.Hello` and `Commit`."""

    shape: WindowShape
    kappa: int
    roots: RootMode
    root_budget: int
    streamed_branches: bool = True  # as `scheduler.Limits`
    signals: bool = True

    @property
    def most_nodes(self) -> int:
        """Nodes behind a text: a window's, and those of one behind every root.

        Of trees up to twice as many are computed as are chosen in the end.
        """
        _, roots = phase_budgets(self.roots, self.root_budget)
        return (1 + roots) * self.shape.num_nodes * (1 if self.shape.topk == 1 else 2)


@dataclass(slots=True)
class Agreements:
    """How often the target agrees with each guesser, as this request has shown."""

    draft: Agreement = field(default_factory=Agreement)
    exit: Agreement = field(default_factory=Agreement)


@dataclass(slots=True)
class Prepared:
    """A branch on its way: the window after outcome (node, token).

    Attributes:
        node: of the window being verified.
        source: whose guess it was.
        growing: the branch's own window.
        sent: what the target has of it, by how many draft tokens that is: an early version, and the whole.
    """

    node: int
    source: Source
    growing: Growing
    sent: dict[int, Standing] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Whether the target has all of it."""
        return self.growing.complete and self.growing.num_drafted in self.sent

    def due(self, early: float) -> bool:
        """Whether there is enough of it to be sent now; an early version has so many tokens on its path."""
        if self.growing.complete:
            return self.growing.num_drafted not in self.sent
        return not self.sent and self.growing.depth >= early

    def send(self) -> RolledOut:
        """What the target gets now; an early version is shorter than the whole, which so replaces it."""
        growing, window = self.growing, self.growing.window()
        if not growing.complete:
            window = window.first(growing.shape.size)
        self.sent.setdefault(len(window) - 1, Standing(growing.nodes[: len(window)], window))
        return RolledOut(self.node, window.root, self.source, window.tokens[1:], window.parents[1:])


class Rollout:
    """The window after one commit and its branches.

    Args:
        window: what the target verifies next, behind the last committed token; while it computes a prompt,
            that token is all.
        settings: of the request's target.
        agreements: of the request; they learn from each outcome.

    Attributes:
        window: as given.
        branches: by outcome (node, token), the most valuable first, by the draft or the exit once it spoke.
        signalled: whether the exit's candidates have been taken in.
    """

    def __init__(self, window: Growing | Standing, settings: RolloutSettings, agreements: Agreements) -> None:
        self.settings = settings
        self.window = window
        self.branches: dict[tuple[int, int], Prepared] = {}
        self._agreements = agreements
        self._first, self._total = phase_budgets(
            settings.roots, settings.root_budget, signals=settings.signals
        )
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
                learn(agreement, self.window.window(), said, committed)

    def advance(self) -> list[Growing]:
        """Take in what has been computed: the window grows, roots are chosen, branches grow.

        Returns:
            what has come to its end with it.
        """
        ended = _extended([self.window])
        if not self.window.complete:
            return ended
        if not self._chosen[1]:
            self._choose_from_own()
        if self._chosen[1] and self._signal is not None and not self._chosen[2]:
            self._choose_from_signal(self._signal)
        return ended + _extended([branch.growing for branch in self.branches.values()])

    def window_tips(self) -> list[Node]:
        """The nodes to compute next for the window itself: to let it grow, then for roots at its leaves."""
        window = self.window
        if not window.complete:
            return window.tips()
        if self._chosen[1] and window.num_drafted:
            return []
        return [node for node in window.nodes if not node.computed]

    def tips(self) -> Iterator[Node]:
        """The nodes to compute next, the most urgent first."""
        yield from self.window_tips()
        for branch in self.branches.values():
            if not branch.growing.complete:
                yield from branch.growing.tips()

    def standing(self, committed: Sequence[int], num_drafted: int) -> Standing | None:
        """The branch that an outcome hit, in the version with so many draft tokens; None if there is none.

        Args:
            committed: accepted tokens, then the correction.
            num_drafted: of the version that the target took.
        """
        node = self.window.window().reached(committed[:-1])
        branch = None if node is None else self.branches.get((node, committed[-1]))
        return branch.sent.get(num_drafted) if branch else None

    def take_due(self) -> tuple[tuple[RolledOut, ...], int]:
        """Branches to send now, and the phase that is complete with them (0: none)."""
        early = SENT_FROM * self.settings.shape.depth
        due = tuple(branch.send() for branch in self.branches.values() if branch.due(early))
        return due, self._phase_now_sent()

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

    def _choose(self, said: Chances, candidates: Sequence[Candidates], budget: int, source: Source) -> None:
        taken = self.branches.keys()
        roots = choose_roots(self.window.window(), said, candidates, budget=budget, taken=taken)
        for root in roots:
            self._start(root.node, root.token, source)

    def _start(self, node: int, token: int, source: Source) -> None:
        root = self.window.nodes[node].child(token)
        settings = self.settings
        growing = grow_behind(
            root, settings.shape, self._agreements.draft, streamed=settings.streamed_branches
        )
        self.branches[node, token] = Prepared(node, source, growing)

    def _choose_from_signal(self, candidates: Sequence[Candidates]) -> None:
        """Phase 2: new roots from the exit, and its order for all: it judges better what is coming."""
        said = self._by_exit = chances_by_exit(self.window.window(), candidates, self._agreements.exit)
        self._choose(said, candidates, self._total - len(self.branches), "exit")
        self._chosen[2] = True

        def cost(outcome: tuple[int, int]) -> float:
            node, token = outcome
            return -said.value(node, candidates[node].logprob(token))

        self.branches = {outcome: self.branches[outcome] for outcome in sorted(self.branches, key=cost)}

    def _choose_from_own(self) -> None:
        """Phase 1. Before the last nodes have candidates, start the roots that these cannot displace.

        The m-th most probable token after a leaf has at most probability 1/m, so of its tokens no more than
        exp(reach - value) can be worth more than a root of that value. It saves most branches a forward.
        How probably the path comes to a leaf behind nodes that only the streams have spoken of, they say.
        """
        nodes = self.window.nodes
        unknown = [place for place, node in enumerate(nodes) if node.candidates is None]
        if unknown and self.branches:
            return
        said = chances(self.window.window(), [_expected(node) for node in nodes], self._agreements.draft)
        self._by_draft, own = said, [node.candidates or NOTHING_KNOWN for node in nodes]
        if not unknown:
            self._choose(said, own, self._first - len(self.branches), "draft")
            self._chosen[1] = True
            return
        roots = choose_roots(self.window.window(), said, own, budget=self._first)
        for rank, root in enumerate(roots):
            rivals = sum(
                _at_least(said.reach[place] - root.value, self.settings.kappa + 1) for place in unknown
            )
            if rank + rivals >= self._first:
                break
            self._start(root.node, root.token, "draft")


def _extended(windows: Sequence[Growing | Standing]) -> list[Growing]:
    """Let those that are not at their end grow; those that then are."""
    return [
        window
        for window in windows
        if not isinstance(window, Standing) and not window.complete and window.extend()
    ]


def _expected(node: Node) -> Candidates:
    """The draft's next tokens after a node; until they are known, what its streams guessed."""
    steps, above = 0, node
    while above.candidates is None and above.parent is not None:
        steps, above = steps + 1, above.parent
    if not steps:
        return above.candidates or NOTHING_KNOWN
    return above.ahead[steps - 1] if steps <= len(above.ahead) else NOTHING_KNOWN


def _at_least(margin: float, most: int) -> int:
    """How many tokens after a leaf can be worth more than a root whose value is `margin` below its reach."""
    return math.floor(math.exp(margin)) if margin < math.log(most) else most
