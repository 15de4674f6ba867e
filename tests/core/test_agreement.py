"""A request finds out how far its guessers can be trusted."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_mirror.core.agreement import EXPONENTS, LEAST, MOST, Agreement


@pytest.mark.parametrize("exponent", [0.12, 0.35, 1.0])
def test_it_finds_the_exponent(exponent: float) -> None:
    picker, agreement = random.Random(1), Agreement()
    for _ in range(400):
        logprob = math.log(picker.uniform(0.02, 0.98))
        agreement.observe(logprob, picker.random() < math.exp(exponent * logprob))
    for probability in (0.1, 0.3, 0.7):
        assert agreement.probability(math.log(probability)) == pytest.approx(probability**exponent, abs=0.06)


def test_before_anything_was_seen_a_guesser_counts_for_more_than_it_says() -> None:
    assert 0.1 < Agreement().probability(math.log(0.1)) < 0.6


def test_disagreement_lowers_and_agreement_raises() -> None:
    sceptical, trusting, neutral = Agreement(), Agreement(), Agreement().probability(-1.0)
    for _ in range(5):
        sceptical.observe(-1.0, False)
        trusting.observe(-1.0, True)
    assert sceptical.probability(-1.0) < neutral < trusting.probability(-1.0)


@given(seen=st.lists(st.tuples(st.floats(-40, 0), st.booleans()), max_size=200), asked=st.floats(-1000, 0))
def test_it_stays_a_probability(seen: list[tuple[float, bool]], asked: float) -> None:
    agreement = Agreement()
    for logprob, agreed in seen:
        agreement.observe(logprob, agreed)
    assert LEAST <= agreement.probability(asked) <= MOST


def test_exponents_that_are_left_out_do_not_show() -> None:
    """Against the mean over all of them, written out."""
    picker, agreement = random.Random(7), Agreement()
    for _ in range(40):
        logprob = math.log(picker.uniform(0.05, 0.95))
        agreement.observe(logprob, picker.random() < math.exp(0.35 * logprob))
        weights = [math.exp(each) for each in agreement.log_likelihoods]
        powers = [math.exp(exponent * logprob) for exponent in EXPONENTS]
        mean = sum(w * power for w, power in zip(weights, powers, strict=True)) / sum(weights)
        assert agreement.probability(logprob) == pytest.approx(mean, abs=1e-3)
