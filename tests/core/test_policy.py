"""The policy against hosts whose speeds are known."""

from __future__ import annotations

from sglang_mirror.core.policy import FIRST_TRIAL, LONGEST_PAUSE, TRIAL, Policy

Speeds = dict[bool, tuple[int, float]]  # speculating or not: tokens and seconds of a step

FASTER: Speeds = {True: (4, 0.012), False: (1, 0.006)}
SLOWER: Speeds = {True: (5, 0.040), False: (3, 0.012)}


def play(policy: Policy, speeds: Speeds, steps: int, batch: int = 1) -> list[bool]:
    """What it chose, step by step."""
    chosen = []
    for _ in range(steps):
        speculate = policy.choose(batch)
        tokens, seconds = speeds[speculate]
        policy.learn(batch, speculated=speculate, tokens=tokens, seconds=seconds)
        chosen.append(speculate)
    return chosen


def test_speculates_from_the_start_and_tries_the_other_way() -> None:
    chosen = play(Policy(), FASTER, FIRST_TRIAL + TRIAL + 1)
    assert all(chosen[:FIRST_TRIAL])
    assert not any(chosen[FIRST_TRIAL : FIRST_TRIAL + TRIAL])
    assert chosen[-1]


def test_trials_become_rare_where_speculation_pays() -> None:
    steps = 20_000
    chosen = play(Policy(), FASTER, steps)
    assert chosen.count(False) < 0.01 * steps
    assert not all(chosen[-2 * LONGEST_PAUSE :])  # but never end


def test_gives_up_where_it_does_not() -> None:
    policy = Policy()
    chosen = play(policy, SLOWER, 5_000, batch=3)
    assert chosen.count(True) < 300
    assert policy.report() == {"4": False}


def test_comes_back_when_things_change() -> None:
    policy = Policy()
    play(policy, SLOWER, 1_000)
    chosen = play(policy, FASTER, 3_000)
    assert chosen[-1]
    assert chosen.count(True) > 1_000


def test_sizes_are_judged_apart() -> None:
    policy = Policy()
    for _ in range(2_000):
        play(policy, FASTER, 1, batch=1)
        play(policy, SLOWER, 1, batch=8)
    assert policy.report() == {"1": True, "8": False}


def test_steps_that_had_no_windows_tell_nothing() -> None:
    policy = Policy()
    for _ in range(1_000):
        policy.learn(1, speculated=False, tokens=1, seconds=0.001)
    assert policy.choose(1)
    assert all(play(policy, FASTER, FIRST_TRIAL))
