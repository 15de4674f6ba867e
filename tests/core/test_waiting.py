"""When to wait: against two ways of decoding that are played out, request by request."""

from __future__ import annotations

import math
import random

import pytest

from sglang_mirror.core.waiting import ENOUGH, SELDOM, Fared, Waiting

BATCH, STEP_S = 8, 0.020
BROUGHT, HITS, HITS_BEHIND_ROOT = (
    3.0,
    0.75,
    0.60,
)  # tokens that a window brings, and how often there is one next


def learnt(wait_s: float, *, hits_behind_root: float = HITS_BEHIND_ROOT, brought: float = BROUGHT) -> Waiting:
    """What many steps that waited, and some that did not, have shown."""
    found, rng = Waiting(), random.Random(0)
    for step in range(400):
        waited = step % 2 == 0
        missed = Fared(
            5 if waited else None,
            waited,
            1 + round(brought) if waited else 1,
            rng.random() < (HITS if waited else hits_behind_root),
        )
        others = [Fared(5, awaited=False, tokens=4, hit=rng.random() < HITS) for _ in range(BATCH - 1)]
        found.learn([missed, *others], wait_s if waited else 0.0, 0.0)
    return found


def tokens_per_s(wait_s: float, *, waits_from: float, steps: int = 20_000) -> float:
    """Of a batch whose requests fare as above, where so many misses and more are waited for."""
    rng = random.Random(1)
    has_window, tokens, seconds = [True] * BATCH, 0.0, 0.0
    for _ in range(steps):
        if has_window.count(False) and has_window.count(False) >= waits_from:
            has_window, seconds = [True] * BATCH, seconds + wait_s
        tokens += BATCH + BROUGHT * sum(has_window)
        seconds += STEP_S
        has_window = [rng.random() < (HITS if had else HITS_BEHIND_ROOT) for had in has_window]
    return tokens / seconds


@pytest.mark.parametrize("wait_s", [0.0005, 0.002, 0.004, 0.008, 0.012])
def test_no_other_number_of_misses_is_better(wait_s: float) -> None:
    waiting = learnt(wait_s)
    best = max(tokens_per_s(wait_s, waits_from=least) for least in range(1, BATCH + 2))
    chosen = BATCH + 1.0
    for _ in range(5):  # the rate that it reckons with is that of the steps that it chose
        chosen = waiting.least_misses(tokens_per_s(wait_s, waits_from=chosen))
    assert tokens_per_s(wait_s, waits_from=chosen) >= 0.99 * best


def test_long_waits_are_for_many_misses() -> None:
    least = [learnt(wait_s).least_misses(1000.0) for wait_s in (0.0, 0.001, 0.004, 0.016)]
    assert least[0] == 0.0
    assert least == sorted(least)
    cost_of_wait = 1000.0 * 0.004
    assert least[2] == pytest.approx(cost_of_wait * (1 - HITS + HITS_BEHIND_ROOT) / BROUGHT, rel=0.3)


def test_where_no_branch_follows_a_root_it_pays_to_wait_sooner() -> None:
    alone, followed = (learnt(0.004, hits_behind_root=q).least_misses(1000.0) for q in (0.0, HITS))
    assert alone == pytest.approx((1 - HITS) * followed, rel=0.25)


def test_windows_that_bring_nothing_are_not_waited_for() -> None:
    assert learnt(0.004, brought=0.0).least_misses(1000.0) == math.inf


def test_rows_of_a_window_are_paid_for() -> None:
    waiting = Waiting()
    for _ in range(ENOUGH):
        waiting.learn([Fared(5, awaited=True, tokens=3, hit=True)], 0.004, 0.4)  # 2 tokens for 5 rows
    assert waiting.least_misses(1000.0) == math.inf


def test_all_are_waited_for_until_enough_is_known() -> None:
    waiting = Waiting()
    for _ in range(ENOUGH - 1):
        waiting.learn([Fared(5, awaited=True, tokens=1, hit=False)], 1.0, 0.0)
        assert waiting.least_misses(1000.0) == 0.0
    waiting.learn([Fared(5, awaited=True, tokens=1, hit=False)], 1.0, 0.0)
    assert waiting.least_misses(1000.0) == math.inf
    assert waiting.least_misses(0.0) == 0.0  # and while no rate is known


def test_what_is_never_waited_for_is_tried_again() -> None:
    waiting = learnt(1.0)
    missed = [Fared(None, awaited=False, tokens=1, hit=True)]
    for _ in range(SELDOM - 1):  # the last step of those was one
        assert waiting.least_misses(1000.0) > BATCH
        waiting.learn(missed, 0.0, 0.0)
    assert waiting.least_misses(1000.0) == 0.0
    waiting.learn([Fared(5, awaited=True, tokens=4, hit=True)], 1.0, 0.0)
    assert waiting.least_misses(1000.0) > BATCH
