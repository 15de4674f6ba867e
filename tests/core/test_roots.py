"""Which outcomes get a branch."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_mirror.core.agreement import Agreement
from sglang_mirror.core.branches import Branch, BranchTable
from sglang_mirror.core.roots import (
    Candidates,
    Chances,
    Root,
    RootMode,
    chances,
    chances_by_exit,
    choose_roots,
    learn,
    phase_budgets,
)
from sglang_mirror.core.verify import Outcome
from sglang_mirror.core.window import Window

CHAIN = Window.chain(1, [2, 3])
LOG = math.log
OPTIONS = [
    Candidates((2, 4, 5), (LOG(0.5), LOG(0.3), LOG(0.1))),
    Candidates((6, 3), (LOG(0.55), LOG(0.4))),
    Candidates((7, 8), (LOG(0.9), LOG(0.05))),
]


@pytest.mark.parametrize(
    ("mode", "budget", "budgets"),
    [
        ("none", 8, (0, 0)), ("exit", 8, (0, 8)), ("draft", 8, (8, 8)), ("union", 8, (5, 8)),
        ("union", 12, (8, 12)), ("union", 4, (3, 4)), ("union", 3, (2, 3)),
        ("union", 1, (1, 1)), ("union", 0, (0, 0)), ("union", 2, (2, 2)),
    ],
)  # fmt: skip
def test_phase_budgets(mode: RootMode, budget: int, budgets: tuple[int, int]) -> None:
    assert phase_budgets(mode, budget) == budgets


def test_without_a_signal_the_draft_has_the_exits_share() -> None:
    found = [phase_budgets(mode, 12, signals=False) for mode in ("none", "exit", "draft", "union")]
    assert found == [(0, 0), (0, 12), (12, 12), (12, 12)]


def test_candidates() -> None:
    found = Candidates((5, 6, 7), (-1.0, -2.0, -3.0))
    assert found.logprob(6) == -2.0
    assert found.logprob(9) == -4.0  # just below the least probable
    assert Candidates((), ()).logprob(1) == -math.inf
    assert found.without({5}, 1) == Candidates((6,), (-2.0,))
    assert found.without((), 9) == found


class Literal(Agreement):
    """Takes a guesser at its word."""

    def probability(self, logprob: float) -> float:
        return math.exp(logprob)


def test_chances_of_a_guesser_taken_at_its_word() -> None:
    """Then the value of an outcome is the plain product of probabilities along the path."""
    said = chances(CHAIN, OPTIONS, Literal())
    assert said.reach == pytest.approx((0.0, LOG(0.5), LOG(0.5 * 0.4)))
    assert said.stop == pytest.approx((0.0, 0.0, 0.0))
    assert said.passing == pytest.approx((LOG(0.5), LOG(0.4), 0.0))
    assert said.value(1, LOG(0.55)) == pytest.approx(LOG(0.5 * 0.55))
    tree = Window((1, 2, 4, 3), (-1, 0, 0, 1))
    said = chances(tree, [*OPTIONS, OPTIONS[2]], Literal())
    assert said.reach == pytest.approx((0.0, LOG(0.5), LOG(0.3), LOG(0.5 * 0.4)))


def test_chances_by_exit_share_what_its_candidates_leave() -> None:
    options = [Candidates((4, 5), (LOG(0.2), LOG(0.1))), Candidates((6,), (LOG(0.25),)), OPTIONS[2]]
    said = chances_by_exit(CHAIN, options, Literal())
    assert said.passing == pytest.approx((LOG(0.7), LOG(0.75), 0.0))
    assert said.reach == pytest.approx((0.0, LOG(0.7), LOG(0.7 * 0.75)))
    tree = Window((1, 2, 3), (-1, 0, 0))
    said = chances_by_exit(tree, [options[0], OPTIONS[2], OPTIONS[2]], Literal())
    assert said.reach == pytest.approx((0.0, LOG(0.35), LOG(0.35)))


@given(exponent=st.sampled_from([0.25, 1.0]))
def test_the_law_of_outcomes_sums_to_one(exponent: float) -> None:
    """However the agreement is weighed: every way to stop, and the tail that candidates leave out."""

    class Weighed(Agreement):
        def probability(self, logprob: float) -> float:
            return math.exp(exponent * logprob)

    whole = [
        Candidates((2, 4, 5), (LOG(0.5), LOG(0.3), LOG(0.2))),
        Candidates((3, 6), (LOG(0.6), LOG(0.4))),
        Candidates((7, 8), (LOG(0.9), LOG(0.1))),
    ]
    said = chances(CHAIN, whole, Weighed())
    every = choose_roots(CHAIN, said, whole, budget=99)
    assert sum(math.exp(root.value) for root in every) == pytest.approx(1.0)


def test_what_is_learned_ends_with_the_path() -> None:
    class Notes(Agreement):
        def __init__(self) -> None:
            super().__init__()
            self.notes: list[tuple[float, bool]] = []

        def observe(self, logprob: float, agreed: bool) -> None:
            self.notes.append((logprob, agreed))

    said = Chances((0.0, -1.0, -2.0), (0.0, 0.0, 0.0), (-0.1, -0.2, 0.0))
    for committed, expected in (
        ([9], [(-0.1, False)]),
        ([2, 9], [(-0.1, True), (-0.2, False)]),
        ([2, 3, 9], [(-0.1, True), (-0.2, True)]),
        ([2], [(-0.1, True)]),  # decoded plainly, by chance the window's own token
    ):
        agreement = Notes()
        learn(agreement, CHAIN, said, committed)
        assert agreement.notes == expected


@pytest.mark.parametrize(
    ("budget", "taken", "expected"),
    [
        (9, (), [(0, 4), (1, 6), (2, 7), (0, 5), (2, 8)]),
        (2, (), [(0, 4), (1, 6)]),
        (2, [(0, 4)], [(1, 6), (2, 7)]),
        (0, (), []),
        (-3, (), []),
    ],
)
def test_the_most_probable_outcomes_first(
    budget: int, taken: list[tuple[int, int]], expected: list[tuple[int, int]]
) -> None:
    roots = choose_roots(CHAIN, chances(CHAIN, OPTIONS, Literal()), OPTIONS, budget=budget, taken=taken)
    assert [(root.node, root.token) for root in roots] == expected


def test_ties_break_by_position() -> None:
    same = [Candidates((9, 8), (-1.0, -1.0))] * 2
    even = Chances((0.0, 0.0), (0.0, 0.0), (0.0, 0.0))
    roots = choose_roots(Window.chain(1, [2]), even, same, budget=4)
    assert [(root.node, root.token) for root in roots] == [(0, 8), (0, 9), (1, 8), (1, 9)]


@st.composite
def choices(draw: st.DrawFn) -> tuple[Window, list[Candidates]]:
    depth = draw(st.integers(0, 5))
    window = Window.chain(0, draw(st.lists(st.integers(0, 9), min_size=depth, max_size=depth)))
    options = []
    for _ in range(depth + 1):
        tokens = draw(st.lists(st.integers(0, 9), max_size=6, unique=True))
        logprobs = sorted((draw(st.floats(-9, 0)) for _ in tokens), reverse=True)
        options.append(Candidates(tuple(tokens), tuple(logprobs)))
    return window, options


@given(choice=choices(), budget=st.integers(0, 12))
def test_roots_are_possible_distinct_and_best(choice: tuple[Window, list[Candidates]], budget: int) -> None:
    window, options = choice
    said = chances(window, options, Agreement())
    every = choose_roots(window, said, options, budget=1000)
    roots = choose_roots(window, said, options, budget=budget)
    assert roots == every[:budget]
    assert len({(root.node, root.token) for root in every}) == len(every)
    assert all(root.token not in window.child_tokens(root.node) for root in every)
    assert [root.value for root in every] == sorted((root.value for root in every), reverse=True)
    assert all(isinstance(root, Root) and math.isfinite(root.value) for root in every)
    # In two helpings it is the same meal: what the draft's two calls in phase 1 rely on.
    first = every[: budget // 2]
    taken = [(root.node, root.token) for root in first]
    rest = choose_roots(window, said, options, budget=budget - len(first), taken=taken)
    assert first + rest == roots


def test_branch_table_drops_what_is_stale() -> None:
    table = BranchTable(committed_len=5)
    branch, other = (Branch(Window.chain(3, [tail]), "draft") for tail in (4, 5))
    assert not table.put(4, 0, branch)
    assert table.put(5, 0, branch)
    assert table.put(5, 0, other)  # the first stays: the target may have looked it up
    assert table.look_up(Outcome(0, 3)) is branch
    assert table.look_up(Outcome(1, 3)) is None
    longer = Branch(Window.chain(3, [4, 6]), "draft")
    assert table.put(5, 0, longer)  # what came first without its last tokens
    assert table.look_up(Outcome(0, 3)) is longer
    assert table.put(5, 0, branch)
    assert table.look_up(Outcome(0, 3)) is longer
    table.restart(7)
    assert table.look_up(Outcome(0, 3)) is None
    assert table.put(7, 0, other)
