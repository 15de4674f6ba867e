"""Both judgements together: each step is learned from when the next begins, unless a prefill came between."""

from __future__ import annotations

import math

import pytest

from sglang_mirror.core.policy import FIRST_PAUSE
from sglang_mirror.core.speculation import Speculation
from sglang_mirror.core.waiting import ENOUGH, Fared

SECONDS = {True: 0.040, False: 0.006}
TOKENS = {True: 3, False: 1}


def play(judge: Speculation, steps: int, *, prefills: bool = False) -> list[bool]:
    """A text that is not worth speculating for; what was chosen, step by step."""
    chosen, took = [], None
    for step in range(steps):
        speculate = judge.begin(1, sampled=False, cycle_s=None if prefills else took)
        rows = 2 + step % 7 if speculate else 1
        fared = [Fared(rows - 1, awaited=False, tokens=TOKENS[True], hit=True)] if speculate else []
        judge.end(fared, rows=rows, seconds=0.003 * rows, waited_s=0.0, tokens=TOKENS[speculate])
        took = SECONDS[speculate]
        chosen.append(speculate)
    return chosen


def test_rests_where_it_does_not_pay() -> None:
    judge = Speculation(may_rest=True, may_end=True, resizable=True)
    chosen = play(judge, 500)
    assert chosen[:FIRST_PAUSE] == [True] * FIRST_PAUSE
    assert chosen.count(True) < 100
    assert judge.report()["greedy"] == {"1": False}


def test_windows_end_where_a_row_does_not_pay() -> None:
    judge = Speculation(may_rest=False, may_end=True, resizable=True)
    assert all(play(judge, 100))
    assert math.exp(judge.least) == pytest.approx(0.003 * TOKENS[True] / SECONDS[True])
    assert judge.report() == {}


def test_neither_if_neither_may_be() -> None:
    judge = Speculation(may_rest=False, may_end=False, resizable=True)
    assert all(play(judge, 500))
    assert (judge.least, judge.rate) == (-math.inf, 0.0)


def test_rows_cost_nothing_where_all_windows_are_as_large() -> None:
    """As in a captured graph. What is waited for costs something even so."""
    judge = Speculation(may_rest=False, may_end=True, resizable=False)
    assert all(play(judge, 100))
    assert judge.least == -math.inf
    assert judge.rate == pytest.approx(TOKENS[True] / SECONDS[True])


def test_a_step_before_a_prefill_tells_nothing() -> None:
    assert all(play(Speculation(may_rest=True, may_end=True, resizable=True), 500, prefills=True))


@pytest.mark.parametrize(("given", "found"), [(0.0, 0.0), (math.inf, math.inf), (None, 100 * 0.030 / 2)])
def test_misses_are_waited_for_as_it_was_set_or_measured(given: float | None, found: float) -> None:
    """A step of 40 ms, 30 of which it waits, commits 4 tokens; the one that waits has 2 by its window."""
    judge = Speculation(may_rest=False, may_end=True, resizable=False, least_misses=given)
    fared = [Fared(5, awaited=True, tokens=3, hit=False)]
    for _ in range(ENOUGH):
        judge.begin(2, sampled=False, cycle_s=0.040)
        judge.end(fared, rows=12, seconds=0.010, waited_s=0.030, tokens=4)
        judge.begin(2, sampled=False, cycle_s=0.040)
        judge.end(fared, rows=12, seconds=0.010, waited_s=3.0, tokens=4, joined=True)  # for its first window
    judge.begin(2, sampled=False, cycle_s=0.040)
    assert judge.least_misses == pytest.approx(found)
    assert judge.waits(1) is (found <= 1)


@pytest.mark.parametrize("fared", [[], [Fared(None, awaited=False, tokens=1, hit=False)]])
def test_a_step_speculates_if_it_tells_of_its_draft(fared: list[Fared]) -> None:
    judge = Speculation(may_rest=False, may_end=True, resizable=False)
    judge.begin(1, sampled=False, cycle_s=None)
    judge.end(fared, rows=1, seconds=0.010, waited_s=0.0, tokens=1)
    judge.begin(1, sampled=False, cycle_s=0.040)
    assert (judge.rate > 0.0) is bool(fared)
