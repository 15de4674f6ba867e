"""Chunks of a prompt are as large as the measured rows allow."""

from __future__ import annotations

import itertools

import pytest

from sglang_mirror.draft.pace import GRAIN, Pace

LIMIT_MS = 200.0
MOST = 128


def chunks(fixed_ms: float, row_ms: float, *, rollouts: bool) -> list[int]:
    """The sizes that are chosen one after another where a forward of n rows takes `fixed + n * row`."""
    pace, sizes = Pace(), []
    for _ in range(12):
        sizes.append(min(pace.rows(limit_ms=LIMIT_MS), MOST))
        pace.took(sizes[-1], fixed_ms + row_ms * sizes[-1], whole_chunk=True)
        if rollouts:
            pace.took(1, fixed_ms + row_ms, whole_chunk=False)
    return sizes


@pytest.mark.parametrize(
    ("fixed_ms", "row_ms", "settles"),
    [
        (0.0, 5.7, 16),  # a 0.6B draft on one CPU thread: no less than the grain, though it takes 91 ms
        (0.0, 1.0, 48),
        (10.0, 0.5, 80),
        (40.0, 0.8, 48),  # 50 ms would be 12 rows: it may take as long as two forwards
        (150.0, 1.0, 48),  # not as long as two of these: that is beyond the limit
        (1.5, 0.01, MOST),
    ],
)
def test_a_chunk_takes_its_time(fixed_ms: float, row_ms: float, settles: int) -> None:
    sizes = chunks(fixed_ms, row_ms, rollouts=True)
    assert sizes[0] == GRAIN
    assert all(later <= 2 * size for size, later in itertools.pairwise(sizes))
    assert sizes[-1] == settles


@pytest.mark.parametrize(("fixed_ms", "row_ms"), [(0.0, 5.7), (0.0, 1.0), (60.0, 2.0), (1.5, 0.01)])
def test_it_stays_below_the_limit_also_while_chunks_are_all_that_was_measured(
    fixed_ms: float, row_ms: float
) -> None:
    sizes = chunks(fixed_ms, row_ms, rollouts=False)
    assert all(fixed_ms + row_ms * size <= LIMIT_MS for size in sizes)


def measured(rows: int, ms: float) -> Pace:
    pace = Pace()
    pace.took(1, 2.0, whole_chunk=False)
    pace.took(rows, ms, whole_chunk=True)
    return pace


def test_slower_rows_count_at_once_faster_ones_by_half() -> None:
    pace = measured(96, 52.0)
    assert pace.rows(limit_ms=LIMIT_MS) == 80
    pace.took(96, 98.0, whole_chunk=True)
    assert pace.rows(limit_ms=LIMIT_MS) == 32
    pace.took(96, 52.0, whole_chunk=True)
    assert pace.rows(limit_ms=LIMIT_MS) == 48


def test_a_prompts_last_rows_say_nothing() -> None:
    pace = measured(96, 52.0)
    pace.took(3, 30.0, whole_chunk=False)
    assert pace.rows(limit_ms=LIMIT_MS) == 80


@pytest.mark.parametrize(("beside", "rows"), [(0, 80), (16, 64), (50, 32), (500, GRAIN)])
def test_other_rows_of_the_forward_take_their_part(beside: int, rows: int) -> None:
    assert measured(96, 52.0).rows(limit_ms=LIMIT_MS, beside=beside) == rows


def test_an_impatient_target_sets_the_limit() -> None:
    assert measured(96, 52.0).rows(limit_ms=20.0) == 32
