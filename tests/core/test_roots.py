"""Which outcomes get a branch."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_mirror.core.branches import Branch, BranchTable
from sglang_mirror.core.roots import Candidates, Root, RootMode, choose_roots, phase_budgets, reach
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
        ("none", 8, (0, 0)), ("exit", 8, (0, 8)), ("draft", 8, (8, 8)), ("union", 8, (6, 8)),
        ("union", 12, (9, 12)), ("union", 1, (1, 1)), ("union", 0, (0, 0)), ("union", 2, (2, 2)),
    ],
)  # fmt: skip
def test_phase_budgets(mode: RootMode, budget: int, budgets: tuple[int, int]) -> None:
    assert phase_budgets(mode, budget) == budgets


def test_candidates() -> None:
    found = Candidates((5, 6, 7), (-1.0, -2.0, -3.0))
    assert found.logprob(6) == -2.0
    assert found.logprob(9) == -4.0  # just below the least probable
    assert Candidates((), ()).logprob(1) == -math.inf
    assert found.without({5}, 1) == Candidates((6,), (-2.0,))
    assert found.without((), 9) == found


def test_reach_is_the_product_along_the_path() -> None:
    assert reach(CHAIN, OPTIONS) == pytest.approx((0.0, LOG(0.5), LOG(0.5 * 0.4)))
    tree = Window((1, 2, 4, 3), (-1, 0, 0, 1))
    expected = (0.0, LOG(0.5), LOG(0.3), LOG(0.5 * 0.4))
    assert reach(tree, [*OPTIONS, OPTIONS[2]]) == pytest.approx(expected)


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
    roots = choose_roots(CHAIN, reach(CHAIN, OPTIONS), OPTIONS, budget=budget, taken=taken)
    assert [(root.node, root.token) for root in roots] == expected


def test_ties_break_by_position() -> None:
    same = [Candidates((9, 8), (-1.0, -1.0))] * 2
    roots = choose_roots(Window.chain(1, [2]), (0.0, 0.0), same, budget=4)
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
    reached = reach(window, options)
    every = choose_roots(window, reached, options, budget=1000)
    roots = choose_roots(window, reached, options, budget=budget)
    assert roots == every[:budget]
    assert len({(root.node, root.token) for root in every}) == len(every)
    assert all(root.token not in window.child_tokens(root.node) for root in every)
    assert [root.value for root in every] == sorted((root.value for root in every), reverse=True)
    assert all(isinstance(root, Root) and root.value <= 0 for root in every)
    # In two helpings it is the same meal: what the draft's two calls in phase 1 rely on.
    first = every[: budget // 2]
    taken = [(root.node, root.token) for root in first]
    rest = choose_roots(window, reached, options, budget=budget - len(first), taken=taken)
    assert first + rest == roots


def test_branch_table_drops_what_is_stale() -> None:
    table = BranchTable(committed_len=5)
    branch, other = (Branch(Window.chain(3, [tail]), "draft") for tail in (4, 5))
    assert not table.put(4, 0, branch)
    assert table.put(5, 0, branch)
    assert table.put(5, 0, other)  # the first stays: the target may have looked it up
    assert table.look_up(Outcome(0, 3)) is branch
    assert table.look_up(Outcome(1, 3)) is None
    table.restart(7)
    assert table.look_up(Outcome(0, 3)) is None
    assert table.put(7, 0, other)
