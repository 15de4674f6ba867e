"""Trials come more and more seldom, and soon again after a change of mind."""

from __future__ import annotations

import pytest

from sglang_mirror.core.decaying import Ratio
from sglang_mirror.core.trials import Trials


def pauses(trials: Trials, count: int) -> list[int]:
    """Decisions alike before each of so many trials."""
    found = []
    for _ in range(count):
        alike = 0
        while not trials.due():
            alike += 1
        found.append(alike)
    return found


def test_pauses_grow_to_a_bound() -> None:
    assert pauses(Trials(4, 20), 5) == [4, 8, 16, 20, 20]
    assert pauses(Trials(2, 100, longer=4), 4) == [2, 8, 32, 100]


def test_they_are_short_again_after_a_change() -> None:
    trials = Trials(4, 20)
    pauses(trials, 3)
    trials.restart()
    assert pauses(trials, 2) == [4, 8]


def test_the_latest_counts_most() -> None:
    rate = Ratio(0.5)
    assert rate.value(unknown=7.0) == 7.0
    rate.add(8, 2)
    rate.add(0, 0)  # shows nothing
    assert rate.value() == 4.0
    rate.add(1, 1)
    assert rate.value() == pytest.approx((4 + 1) / (1 + 1))
