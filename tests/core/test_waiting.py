"""When to wait: against two ways of decoding that are played out, request by request."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass

import pytest

from sglang_mirror.core.waiting import ENOUGH, FIRST_PAUSE, Fared, Waiting

BATCH, STEP_S = 8, 0.020
ROW = 5  # draft tokens in a window


@dataclass(frozen=True)
class Beginning:
    """How a request's step begins: draft tokens that it brings, and how often its outcome has a branch."""

    brought: int
    hits: float


BRANCH, FRESH, ROOT = Beginning(4, 0.7), Beginning(3, 0.7), Beginning(0, 0.6)
SHORT = Beginning(1, 0.85)  # one that ended early: few outcomes, most of them with a branch


def fared(way: Beginning, rng: random.Random, *, awaited: bool = False) -> Fared:
    return Fared(ROW if way.brought else None, awaited, 1 + way.brought, rng.random() < way.hits)


def learnt(wait_s: float, *, fresh: Beginning = FRESH, root: Beginning = ROOT) -> Waiting:
    """What many steps that waited for one request, and as many that did not, have shown."""
    found, rng = Waiting(), random.Random(0)
    for step in range(2000):
        waited = step % 2 == 0
        missed = (
            Fared(ROW, True, 1 + fresh.brought, rng.random() < fresh.hits) if waited else fared(root, rng)
        )
        found.learn([missed, *(fared(BRANCH, rng) for _ in range(BATCH - 1))], wait_s if waited else 0.0, 0.0)
    return found


def tokens_per_s(
    wait_s: float, *, waits_from: float, fresh: Beginning, root: Beginning, steps: int = 6_000
) -> float:
    """Of a batch whose requests fare so, where as many misses and more are waited for."""
    rng = random.Random(1)
    hit, tokens, seconds = [True] * BATCH, 0.0, 0.0
    for _ in range(steps):
        waits = not all(hit) and hit.count(False) >= waits_from
        ways = [BRANCH if each else fresh if waits else root for each in hit]
        tokens += sum(1 + way.brought for way in ways)
        seconds += STEP_S + wait_s * waits
        hit = [rng.random() < way.hits for way in ways]
    return tokens / seconds


@pytest.mark.parametrize("wait_s", [0.0005, 0.002, 0.004, 0.008, 0.012])
@pytest.mark.parametrize("fresh", [FRESH, SHORT])
@pytest.mark.parametrize("root", [ROOT, Beginning(0, 0.2)])
def test_no_other_number_of_misses_is_much_better(wait_s: float, fresh: Beginning, root: Beginning) -> None:
    def rate(waits_from: float) -> float:
        return tokens_per_s(wait_s, waits_from=waits_from, fresh=fresh, root=root)

    waiting, chosen = learnt(wait_s, fresh=fresh, root=root), 0.0
    for _ in range(5):  # the rate that it reckons with is that of the steps that it chose
        chosen = waiting.least_misses(rate(chosen))
    assert rate(chosen) >= 0.96 * max(map(rate, range(1, BATCH + 2)))


def test_long_waits_are_for_many_misses() -> None:
    least = [learnt(wait_s).least_misses(1000.0) for wait_s in (0.0, 0.001, 0.004, 0.016)]
    assert least[0] == 0.0
    assert least[2] == pytest.approx(4 * least[1])
    assert least[3] == pytest.approx(16 * least[1])


def test_where_no_branch_follows_a_root_it_pays_to_wait_sooner() -> None:
    alone, followed = (
        learnt(0.004, root=Beginning(0, hits)).least_misses(1000.0) for hits in (0.0, BRANCH.hits)
    )
    assert alone < 0.5 * followed


def test_windows_that_bring_nothing_are_not_waited_for() -> None:
    assert learnt(0.004, fresh=Beginning(0, ROOT.hits)).least_misses(1000.0) > BATCH


def test_rows_of_a_window_are_paid_for() -> None:
    waiting = Waiting()
    for _ in range(ENOUGH):
        waiting.learn([Fared(5, awaited=True, tokens=3, hit=True)], 0.004, 0.4)  # 2 tokens for 5 rows
    assert waiting.least_misses(1000.0) == math.inf


def ahead(wait_s: float, *, waits: bool, rate: float) -> float:
    """How far a request that begins with a branch comes to be ahead of one that missed, step by step."""
    miss = FRESH if waits else ROOT
    branch_value, miss_value = 0.0, 0.0
    for _ in range(200):
        values = [
            way.brought + way.hits * branch_value + (1 - way.hits) * miss_value for way in (BRANCH, miss)
        ]
        branch_value, miss_value = values[0], values[1] - rate * wait_s * waits
    return branch_value - miss_value


@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize("wait_s", [0.001, 0.008])
def test_a_hit_is_worth_what_a_miss_is_behind(wait_s: float, waits: bool) -> None:
    found = learnt(wait_s).hit_worth(500.0, waits=waits)
    assert found == pytest.approx(ahead(wait_s, waits=waits, rate=500.0), rel=0.25)  # hits are drawn


def test_all_are_waited_for_until_enough_is_known() -> None:
    waiting = Waiting()
    for _ in range(ENOUGH - 1):
        waiting.learn([Fared(5, awaited=True, tokens=1, hit=False)], 1.0, 0.0)
        assert waiting.least_misses(1000.0) == 0.0
        assert waiting.hit_worth(1000.0, waits=True) == math.inf
    waiting.learn([Fared(5, awaited=True, tokens=1, hit=False)], 1.0, 0.0)
    assert waiting.least_misses(1000.0) == math.inf
    assert waiting.least_misses(0.0) == 0.0  # and while no rate is known


def test_rows_are_nobodys_where_windows_are_side_by_side() -> None:
    """Those of the longest window, whatever a request has itself."""
    waiting = Waiting()
    for _ in range(ENOUGH):
        fresh = Fared(ROW, awaited=True, tokens=3, hit=True)
        waiting.learn([fresh, Fared(ROW, awaited=False, tokens=3, hit=True)], 0.004, 0.4)
    assert waiting.least_misses(1000.0) < math.inf


@pytest.mark.parametrize(("wait_s", "usual"), [(1.0, False), (0.0, True)])
def test_what_is_long_decided_alike_is_decided_otherwise_more_and_more_seldom(
    wait_s: float, usual: bool
) -> None:
    waiting, otherwise = learnt(wait_s), list[int]()
    for decision in range(500):
        waits = waiting.decide(1, 1000.0)
        missed = Fared(ROW, True, 4, True) if waits else Fared(None, False, 1, True)
        waiting.learn([missed], wait_s if waits else 0.0, 0.0)
        if waits is not usual:
            otherwise.append(decision)
    pauses = [later - before - 1 for before, later in itertools.pairwise([-1, *otherwise])]
    assert pauses == [FIRST_PAUSE * 2**trial for trial in range(4)]
