"""Ratios of speeds and their intervals."""

from __future__ import annotations

import random

import pytest

from sglang_mirror.bench.stats import ratio_interval, speed_ratio, spread


def test_the_ratio_is_of_all_tokens_over_all_seconds() -> None:
    assert speed_ratio([(10, 1.0), (30, 3.0)], [(10, 2.0), (30, 6.0)]) == pytest.approx(2.0)


def test_what_slows_both_arms_does_not_widen_the_interval() -> None:
    slowness = [1.0, 9.0, 2.0, 5.0, 1.5, 7.0]
    ours = [(100, s) for s in slowness]
    theirs = [(100, 2 * s) for s in slowness]
    assert ratio_interval(ours, theirs) == pytest.approx((2.0, 2.0))


def test_one_question_has_no_interval() -> None:
    assert ratio_interval([(10, 1.0)], [(10, 3.0)]) == pytest.approx((3.0, 3.0))


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator, covered = random.Random(5), 0
    for _ in range(200):
        ours = [(100, generator.uniform(0.5, 1.5)) for _ in range(30)]
        theirs = [(100, generator.uniform(1.0, 3.0)) for _ in range(30)]
        low, high = ratio_interval(ours, theirs)
        covered += low <= 2.0 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_spread() -> None:
    assert spread([3.0, 1.0, 2.0]) == {"median": 2.0, "min": 1.0, "max": 3.0}
