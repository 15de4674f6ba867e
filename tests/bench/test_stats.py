"""Ratios of speeds and their intervals."""

from __future__ import annotations

import math
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
    assert speed_ratio([(10, 1.0)], [(10, 3.0)]) == pytest.approx(3.0)
    assert ratio_interval([(10, 1.0)], [(10, 3.0)]) is None


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator, covered = random.Random(5), 0
    for _ in range(200):
        ours = [(100, generator.uniform(0.5, 1.5)) for _ in range(30)]
        theirs = [(100, generator.uniform(1.0, 3.0)) for _ in range(30)]
        low, high = ratio_interval(ours, theirs)
        covered += low <= 2.0 <= high
    assert 0.88 <= covered / 200 <= 0.99


def questions(generator: random.Random, count: int) -> tuple[list[tuple[float, float]], ...]:
    """Tokens and seconds for two arms: some questions are longer, and some are easier to guess for ours."""
    theirs = [(100, generator.lognormvariate(0.0, 0.1)) for _ in range(count)]
    return [(100, seconds / generator.lognormvariate(0.9, 0.4)) for _, seconds in theirs], theirs


@pytest.mark.parametrize("count", [4, 8, 30])
def test_few_questions_have_an_interval_as_good_as_many(count: int) -> None:
    generator = random.Random(20261127)
    truth = math.exp(0.9 - 0.4**2 / 2)  # the mean of a lognormal's inverse
    found = [ratio_interval(*questions(generator, count)) for _ in range(1000)]
    covered = sum(low <= truth <= high for low, high in found) / len(found)
    assert 0.92 <= covered <= 0.98


@pytest.mark.parametrize("count", [2, 3, 12])
def test_the_ratio_lies_in_its_interval(count: int) -> None:
    generator = random.Random(3)
    for _ in range(50):
        arms = questions(generator, count)
        low, high = ratio_interval(*arms)
        assert low < speed_ratio(*arms) < high


def test_spread() -> None:
    assert spread([3.0, 1.0, 2.0]) == {"median": 2.0, "min": 1.0, "max": 3.0}
