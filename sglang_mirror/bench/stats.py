"""Medians, spreads, and the interval of a ratio of speeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 2000
SEED = 7

# Tokens and seconds of each question, summed over the repeats: [q, 2].
Totals = Sequence[tuple[float, float]]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def speed_ratio(ours: Totals, theirs: Totals) -> float:
    """Tokens a second of all questions together, ours over theirs."""
    return float(_ratio(*np.array(ours, float).T, *np.array(theirs, float).T))


def ratio_interval(ours: Totals, theirs: Totals) -> tuple[float, float]:
    """95% interval of `speed_ratio`, by the percentile bootstrap over questions (Efron, 1979).

    A question is drawn for both arms at once: what makes it slow makes it slow for both. One question alone
    has no interval: both ends are its ratio.
    """
    columns = (*np.array(ours, float).T, *np.array(theirs, float).T)
    if len(ours) < 2:
        value = float(_ratio(*columns))
        return value, value
    found = stats.bootstrap(
        columns,
        _ratio,
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        random_state=np.random.default_rng(SEED),
    ).confidence_interval
    return float(found.low), float(found.high)


def _ratio(ours: Any, our_s: Any, theirs: Any, their_s: Any, axis: int = -1) -> Any:
    """[..., q] each -> [...]"""
    return (ours.sum(axis) / our_s.sum(axis)) / (theirs.sum(axis) / their_s.sum(axis))
