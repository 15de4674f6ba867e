"""The oracle: the whole algorithm, with models as plain functions and no time passing.

Every branch is ready before the target finishes, so the simulator says what windows, outcomes and hits an
engine that waits for its draft must produce.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from sglang_mirror.core.agreement import Agreement
from sglang_mirror.core.branches import Branch, BranchTable
from sglang_mirror.core.growth import Growth, WindowShape
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
from sglang_mirror.core.verify import Outcome, follow
from sglang_mirror.core.window import Window

NextToken = Callable[[Sequence[int]], int]
NextCandidates = Callable[[Sequence[int]], Candidates]


@dataclass(frozen=True, slots=True)
class Models:
    """The models as functions of a whole prefix.

    Attributes:
        target: the target's own next token.
        draft: the draft's candidates, most probable first: kappa + 1 of them, as the draft process keeps.
        exit: the early exit's candidates, most probable first: kappa and as many as a node has children.
    """

    target: NextToken
    draft: NextCandidates
    exit: NextCandidates


@dataclass(frozen=True, slots=True)
class Step:
    """One verification, as the simulator or an engine's trace reports it."""

    committed_len: int
    window: tuple[int, ...]
    outcome: Outcome
    num_accepted: int
    source: Source | None


def _path(window: Window, node: int) -> list[int]:
    tokens = []
    while node != -1:
        tokens.append(window.tokens[node])
        node = window.parents[node]
    return tokens[::-1]


def _draft_window(
    draft: NextCandidates, prefix: Sequence[int], shape: WindowShape, agreement: Agreement
) -> Window:
    """The window after `prefix`, whose last token is the root."""
    growth = Growth(prefix[-1], shape, agreement)
    while not growth.complete:
        number = growth.open[0]
        path = []
        while number > 0:
            path.append(growth.nodes[number].token)
            number = growth.nodes[number].parent
        growth.expand({growth.open[0]: draft([*prefix, *reversed(path)])})
    return growth.window()


@dataclass(slots=True)
class Guessers:
    """What one request has learned of its two guessers, and what each said of the window being verified."""

    draft: Agreement = field(default_factory=Agreement)
    exit: Agreement = field(default_factory=Agreement)
    said: list[tuple[Agreement, Chances]] = field(default_factory=list)

    def learn(self, window: Window, committed: Sequence[int]) -> None:
        for agreement, said in self.said:
            learn(agreement, window, said, committed)
        self.said.clear()


def prepare_branches(
    models: Models,
    guessers: Guessers,
    committed: Sequence[int],
    window: Window,
    *,
    shape: WindowShape,
    kappa: int,
    mode: RootMode,
    budget: int,
) -> BranchTable:
    """All branches that a draft with enough time has ready when `window` has been verified."""
    before_root = list(committed[:-1])
    prefixes = [before_root + _path(window, node) for node in range(len(window))]
    by_draft = [models.draft(prefix) for prefix in prefixes]
    first, total = phase_budgets(mode, budget)
    table = BranchTable(committed_len=len(committed))

    def roll_out(said: Chances, candidates: Sequence[Candidates], count: int, source: Source) -> None:
        guessers.said.append((guessers.draft if source == "draft" else guessers.exit, said))
        taken = table.branches.keys()
        for root in choose_roots(window, said, candidates, budget=count, taken=taken):
            prefix = [*prefixes[root.node], root.token]
            branch = _draft_window(models.draft, prefix, shape, guessers.draft)
            table.put(len(committed), root.node, Branch(branch, source))

    if first:
        roll_out(chances(window, by_draft, guessers.draft), by_draft, first, "draft")
    if total > first:
        by_exit = [
            models.exit(prefix).without(window.child_tokens(node), kappa)
            for node, prefix in enumerate(prefixes)
        ]
        said = chances_by_exit(window, by_exit, guessers.exit)
        roll_out(said, by_exit, total - len(table.branches), "exit")
    return table


def simulate(
    models: Models,
    prompt: Sequence[int],
    *,
    num_tokens: int,
    shape: WindowShape,
    kappa: int,
    mode: RootMode,
    budget: int,
) -> Iterator[Step]:
    """Decode at least `num_tokens` tokens after `prompt`, one step at a time.

    Args:
        models: target, draft and early exit as functions.
        prompt: token ids; the first output token is decoded by the target alone, as at a server's prefill.
        num_tokens: stop once so many tokens are committed after the prompt.
        shape: of every window.
        kappa: exit candidates a node.
        mode: whose candidates become roots.
        budget: roots per step.
    """
    committed = [*prompt, models.target(prompt)]
    goal = len(prompt) + num_tokens
    guessers = Guessers()
    window = _draft_window(models.draft, committed, shape, guessers.draft)
    while len(committed) < goal:
        before_root = committed[:-1]
        table = prepare_branches(
            models, guessers, committed, window, shape=shape, kappa=kappa, mode=mode, budget=budget
        )
        wanted = [models.target(before_root + _path(window, node)) for node in range(len(window))]
        verdict = follow(window, wanted)
        branch = table.look_up(verdict.outcome)
        yield Step(
            committed_len=len(committed),
            window=window.tokens,
            outcome=verdict.outcome,
            num_accepted=verdict.num_accepted,
            source=branch.source if branch else None,
        )
        guessers.learn(window, verdict.committed(window))
        committed += verdict.committed(window)
        window = branch.window if branch else _draft_window(models.draft, committed, shape, guessers.draft)
