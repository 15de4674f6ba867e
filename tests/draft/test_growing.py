"""Windows that grow on the draft's tree are those that the algorithm's own arithmetic finds."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_mirror.core.agreement import Agreement
from sglang_mirror.core.growth import Growth, WindowShape
from sglang_mirror.core.roots import Candidates
from sglang_mirror.draft.growing import Growing, GrowingTree, grow_behind
from sglang_mirror.draft.growing_chain import GrowingChain
from sglang_mirror.draft.scheduler import in_turn
from sglang_mirror.draft.tree import Node
from tests.core.test_growth import grown, options, tokens_to


def computed(growing: Growing) -> int:
    """Let a draft say what comes behind its tips until it is complete; in how many forwards."""
    while not growing.extend():
        for node in growing.tips():
            node.candidates = options(path_to(node))
    return growing.forwards


def path_to(node: Node) -> tuple[int, ...]:
    return (*path_to(node.parent), node.token) if node.parent is not None else (node.token,)


@given(st.integers(0, 8), st.integers(1, 8), st.floats(-6.0, 0.0) | st.just(-float("inf")))
def test_a_chain(depth: int, size: int, least: float) -> None:
    shape = WindowShape(depth, 1, size, least)
    growing = grow_behind(Node(7, None, 0), shape, Agreement())
    assert isinstance(growing, GrowingChain)
    forwards = computed(growing)
    window = grown(shape, agreement=Agreement()).window()
    assert growing.window() == window
    assert (growing.num_drafted, growing.depth) == (len(window) - 1, len(window) - 1)
    assert [node.token for node in growing.nodes] == list(window.tokens)
    assert len(window) - 1 <= forwards <= len(window)


@given(st.integers(2, 8), st.integers(1, 3), st.floats(-4.0, 0.0))
def test_a_window_that_is_waited_for(depth: int, topk: int, least: float) -> None:
    """No forward is taken that cannot bring enough, and none is left out that could."""
    shape = WindowShape(depth, topk, depth if topk == 1 else 3 * depth)
    growing = grow_behind(Node(7, None, 0), shape, Agreement(), least_awaited=least)
    growth, forwards = Growth(7, shape, Agreement()), 0
    while not growth.complete:
        due = {number: options(tokens_to(growth, number)) for number in growth.open}
        if math.log(sum(math.exp(growth.nodes[number].value) for number in due)) < least:
            break
        growth.expand(due)
        forwards += 1
    assert computed(growing) == forwards
    assert growing.window() == growth.window()


@given(st.integers(1, 5), st.integers(2, 4), st.integers(2, 12), st.floats(-6.0, 0.0))
def test_a_tree(depth: int, topk: int, size: int, least: float) -> None:
    shape = WindowShape(depth, topk, size, least)
    growing = grow_behind(Node(7, None, 0), shape, Agreement())
    assert isinstance(growing, GrowingTree)
    computed(growing)
    assert growing.window() == grown(shape, agreement=Agreement()).window()


@pytest.mark.parametrize("topk", [1, 2])
def test_a_branch_is_not_guessed_from_what_its_root_was_chosen_against(topk: int) -> None:
    """Streams speak of what follows their node's own first choice, and a branch's root is another token."""
    above = Node(7, None, 0)
    above.candidates = Candidates((1, 2), (-0.1, -3.0))
    above.ahead = (Candidates((4,), (-0.2,)), Candidates((5,), (-0.3,)))
    growing = grow_behind(above.child(2), WindowShape(2, topk, 2), Agreement())
    assert not growing.extend()
    assert growing.tips() == [above.child(2)]


@pytest.mark.parametrize(
    ("asked", "room", "got"),
    [
        ([3, 1, 4], 20, [3, 1, 4]),
        ([3, 1, 4], 8, [3, 1, 4]),
        ([3, 1, 4], 7, [3, 1, 3]),
        ([3, 1, 4], 4, [2, 1, 1]),
        ([3, 0, 4], 1, [1, 0, 0]),
        ([3, 1], 0, [0, 0]),
        ([], 5, []),
    ],
)
def test_rows_are_taken_in_turn(asked: list[int], room: int, got: list[int]) -> None:
    assert in_turn(asked, room) == got
