"""After which rows of a forward the streams are asked."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest

from sglang_mirror.core.roots import Candidates
from sglang_mirror.draft.backends.base import Segment
from sglang_mirror.draft.backends.confirmed import last_confirmed


def forward(tokens: Sequence[int], above: Sequence[int], *, start: int = 7, first: int = 0) -> Segment:
    """Rows behind three of a prefix and others of the tree; `above`: each row's parent among them, or -1."""
    prefix, seen = 3, list[int]()
    for row, parent in enumerate(above):
        earlier = seen[parent] if parent >= 0 else 1  # a node that another forward has computed
        seen.append(earlier | 1 << (start - prefix + row))
    return Segment(
        cache=None,  # type: ignore[arg-type]  # nothing is computed
        tokens=tokens, positions=range(len(tokens)), start=start, prefix=prefix, seen=seen,
        wanted=range(first, len(tokens)), streamed=range(first, len(tokens)),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("following", "asked"),
    [
        ([5, 6, 0], [2]),  # both guesses right
        ([5, 9, 6], [1]),  # the second wrong, whatever follows it
        ([9, 6, 0], [0]),  # the first wrong, so that the second is nobody's
    ],
)
def test_of_a_node_and_what_was_guessed_behind_it(following: list[int], asked: list[int]) -> None:
    said = [Candidates((token, 50), (-0.1, -3.0)) for token in following]
    assert last_confirmed(forward([4, 5, 6], [-1, 0, 1]), said) == asked


def test_of_several_paths_each_has_its_own() -> None:
    # 4 - 5 - 6 and 4 - 7, then 8 - 9 beside them
    segment = forward([4, 5, 6, 7, 8, 9], [-1, 0, 1, 0, -1, 4])
    said = [Candidates((token,), (-0.1,)) for token in (5, 1, 1, 1, 9, 1)]
    assert last_confirmed(segment, said) == [1, 5]


def test_rows_that_nobody_asked_for_are_left_out() -> None:
    segment = forward([4, 5, 6], [-1, 0, 1], start=3, first=1)
    assert last_confirmed(segment, [Candidates((6,), (-0.1,)), Candidates((1,), (-0.1,))]) == [1]


def test_only_rows_that_are_to_be_streamed() -> None:
    segment = dataclasses.replace(forward([4, 5, 6], [-1, -1, 1]), streamed=[0])
    assert last_confirmed(segment, [Candidates((token,), (-0.1,)) for token in (1, 6, 1)]) == [0]


def test_nothing_said_confirms_nothing() -> None:
    assert last_confirmed(forward([4, 5], [-1, 0]), [Candidates((), ())] * 2) == [0]
