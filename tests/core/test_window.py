"""Windows, and which of their paths verification follows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_mirror.core.verify import Outcome, follow, reached
from sglang_mirror.core.window import Window

#        7
#      /   \
#     8     9
#    / \     \
#   5   6     5
TREE = Window((7, 8, 9, 5, 6, 5), (-1, 0, 0, 1, 1, 2))


@st.composite
def windows(draw: st.DrawFn) -> Window:
    size = draw(st.integers(1, 9))
    parents = [-1, *(draw(st.integers(0, node - 1)) for node in range(1, size))]
    tokens = draw(st.lists(st.integers(0, 5), min_size=size, max_size=size))
    return Window(tuple(tokens), tuple(parents))


@pytest.mark.parametrize(
    ("tokens", "parents", "said"),
    [
        ((), (), "has a root"),
        ((1, 2), (-1,), "one parent for each token"),
        ((1,), (0,), "has no parent, found 0"),
        ((1, 2), (-1, 1), "node 1 has parent 1"),
        ((1, 2), (-1, -1), "node 1 has parent -1"),
        ((1, 2, 3), (-1, 2, 0), "node 1 has parent 2"),
    ],
)
def test_what_is_no_tree_is_refused(tokens: tuple[int, ...], parents: tuple[int, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Window(tokens, parents)


def test_chain() -> None:
    window = Window.chain(4, [5, 6])
    assert window == Window((4, 5, 6), (-1, 0, 1))
    assert (len(window), window.root) == (3, 4)
    assert Window.chain(4, []) == Window((4,), (-1,))


def test_tree() -> None:
    assert [TREE.children(node) for node in range(6)] == [(1, 2), (3, 4), (5,), (), (), ()]
    assert TREE.child_tokens(0) == {8, 9}
    assert TREE.child_tokens(3) == frozenset()


@pytest.mark.parametrize(
    ("target", "path", "outcome", "committed"),
    [
        ([1, 0, 0, 0, 0, 0], (0,), Outcome(0, 1), (1,)),
        ([8, 1, 0, 0, 0, 0], (0, 1), Outcome(1, 1), (8, 1)),
        ([8, 6, 0, 0, 3, 0], (0, 1, 4), Outcome(4, 3), (8, 6, 3)),
        ([9, 0, 5, 0, 0, 2], (0, 2, 5), Outcome(5, 2), (9, 5, 2)),
        ([9, 0, 6, 0, 0, 2], (0, 2), Outcome(2, 6), (9, 6)),
    ],
)
def test_follow(
    target: list[int], path: tuple[int, ...], outcome: Outcome, committed: tuple[int, ...]
) -> None:
    verdict = follow(TREE, target)
    assert (verdict.path, verdict.outcome) == (path, outcome)
    assert verdict.num_accepted == len(path) - 1
    assert verdict.committed(TREE) == committed


def test_what_was_committed_tells_the_outcome() -> None:
    chain = Window((5, 6, 7), (-1, 0, 1))
    assert reached(chain, [6, 9]) == Outcome(1, 9)
    assert reached(None, [4]) == Outcome(0, 4)
    assert reached(None, [0, 4]) == Outcome(-1, 4)  # padding that was accepted is no node
    assert reached(chain, [6, 7, 0, 4]) == Outcome(-1, 4)


@given(window=windows(), data=st.data())
def test_only_the_targets_tokens_are_committed(window: Window, data: st.DataObject) -> None:
    wanted = data.draw(st.lists(st.integers(0, 5), min_size=len(window), max_size=len(window)))
    verdict = follow(window, wanted)
    assert verdict.committed(window) == tuple(wanted[node] for node in verdict.path)
    assert verdict.outcome.correction not in window.child_tokens(verdict.outcome.node)
    assert all(window.parents[b] == a for a, b in zip(verdict.path, verdict.path[1:], strict=False))
