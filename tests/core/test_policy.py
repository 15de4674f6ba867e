"""The policy against hosts whose speeds are known."""

from __future__ import annotations

import pytest

from sglang_mirror.core.policy import CATCHING_UP, FIRST_PAUSE, LONGEST_PAUSE, Policy, trial

PLAIN_TRIAL = trial(1, speculating=False)
Speeds = dict[bool, tuple[int, float]]  # speculating or not: tokens and seconds of a step

FASTER: Speeds = {True: (4, 0.012), False: (1, 0.006)}
SLOWER: Speeds = {True: (5, 0.040), False: (3, 0.012)}


def learn(
    policy: Policy,
    batch: int,
    speculated: bool,
    tokens: int,
    seconds: float,
    *,
    sampled: bool = False,
    drafted: bool = False,
    in_vain: bool = False,
) -> None:
    policy.learn(
        batch,
        sampled=sampled,
        speculated=speculated,
        drafted=drafted,
        in_vain=in_vain,
        tokens=tokens,
        seconds=seconds,
    )


def play(policy: Policy, speeds: Speeds, steps: int, batch: int = 1, *, sampled: bool = False) -> list[bool]:
    """What it chose, step by step."""
    chosen = []
    for _ in range(steps):
        speculate = policy.choose(batch, sampled=sampled)
        tokens, seconds = speeds[speculate]
        learn(policy, batch, speculate, tokens, seconds, sampled=sampled, drafted=speculate)
        chosen.append(speculate)
    return chosen


def test_speculates_from_the_start_and_soon_tries_the_other_way() -> None:
    chosen = play(Policy(), FASTER, FIRST_PAUSE + PLAIN_TRIAL + 1)
    assert chosen == [True] * FIRST_PAUSE + [False] * PLAIN_TRIAL + [True]


def test_a_first_step_that_compiles_something_is_no_reason() -> None:
    policy = Policy()
    play(policy, {True: (4, 30.0)}, 1)
    assert play(policy, FASTER, 500).count(False) <= 3 * PLAIN_TRIAL


def test_trials_become_rare_where_speculation_pays() -> None:
    steps = 20_000
    chosen = play(Policy(), FASTER, steps)
    assert chosen.count(False) < 0.01 * steps
    assert not all(chosen[-2 * LONGEST_PAUSE :])  # but never end


def test_a_larger_batch_needs_fewer_steps_to_know() -> None:
    assert [trial(batch, speculating=True) for batch in (1, 2, 4, 64)] == [12, 7, 6, 6]
    assert [trial(batch, speculating=False) for batch in (1, 2, 4, 64)] == [5, 5, 5, 5]
    chosen = play(Policy(), SLOWER, 300, batch=4)
    assert chosen.index(False) == FIRST_PAUSE
    assert chosen.count(True) == FIRST_PAUSE + trial(4, speculating=True), (
        "a trial in this time, and a brief one"
    )


def test_gives_up_where_it_does_not() -> None:
    policy = Policy()
    chosen = play(policy, SLOWER, 5_000, batch=3)
    assert chosen[:100].count(True) < 50
    assert chosen.count(True) < 150
    assert policy.report() == {"greedy": {"4": False}, "sampled": {}}


def test_comes_back_when_things_change() -> None:
    policy = Policy()
    play(policy, SLOWER, 3_000)
    chosen = play(policy, FASTER, 2_000)
    assert chosen[-1]
    assert chosen.count(True) > 900


def test_gives_up_soon_when_the_text_turns_hard() -> None:
    policy = Policy()
    play(policy, FASTER, 5_000)
    hard: Speeds = {True: (1, 0.012), False: FASTER[False]}
    chosen = play(policy, hard, 100)
    assert chosen.count(True) < 50, "trials were rare by then, and this one did not wait for its turn"
    assert policy.report()["greedy"] == {"1": False}


def test_a_slower_machine_is_no_reason() -> None:
    policy = Policy()
    play(policy, FASTER, 5_000)
    slow = {way: (tokens, 3 * seconds) for way, (tokens, seconds) in FASTER.items()}
    chosen = play(policy, slow, 1_000)
    assert chosen.count(False) <= 3 * PLAIN_TRIAL
    assert chosen[-1]


def test_sizes_are_judged_apart_and_so_are_greedy_and_sampled_ones() -> None:
    policy = Policy()
    for _ in range(2_000):
        play(policy, FASTER, 1, batch=1)
        play(policy, SLOWER, 1, batch=8)
        play(policy, SLOWER, 1, batch=1, sampled=True)
    assert policy.report() == {"greedy": {"1": True, "8": False}, "sampled": {"1": False}}


def test_begins_with_what_smaller_batches_have_come_to() -> None:
    policy = Policy()
    play(policy, SLOWER, 200, batch=2)
    assert not any(play(policy, SLOWER, FIRST_PAUSE, batch=8))
    assert all(play(policy, FASTER, FIRST_PAUSE, batch=1))
    assert all(play(policy, FASTER, FIRST_PAUSE, batch=8, sampled=True))
    assert play(policy, FASTER, 500, batch=8)[-1], "it is tried all the same"


def test_steps_that_had_no_windows_tell_nothing() -> None:
    policy = Policy()
    for _ in range(1_000):
        learn(policy, 1, False, 1, 0.001)
    assert policy.choose(1, sampled=False)
    assert all(play(policy, FASTER, FIRST_PAUSE))


def play_with_a_draft_that_is_left_behind(policy: Policy, catching_up: int, steps: int) -> list[bool]:
    """Of each step whether it speculated: a draft that heard nothing takes some to have windows again."""
    chosen, behind = [], 0
    for _ in range(steps):
        speculate = policy.choose(8, sampled=False)
        behind = max(behind - 1, 0) if speculate else catching_up
        tokens, seconds = FASTER[speculate and not behind]
        seconds *= 2 if behind else 1
        learn(policy, 8, speculate, tokens, seconds, drafted=speculate and not behind)
        chosen.append(speculate)
    return chosen


@pytest.mark.parametrize("catching_up", [0, 5, 20, CATCHING_UP])
def test_a_draft_that_was_left_alone_may_catch_up_first(catching_up: int) -> None:
    policy = Policy()
    play(policy, SLOWER, 3_000, batch=8)
    assert not policy.choose(8, sampled=False)
    assert play_with_a_draft_that_is_left_behind(policy, catching_up, 3_000)[-1]


def test_catching_up_is_held_against_no_other_size() -> None:
    """A batch that was decoded plainly shrinks to a size that is speculated for."""
    policy, catching_up = Policy(), 10
    play(policy, SLOWER, 3_000, batch=8)
    play(policy, FASTER, 3_000, batch=4)
    for _ in range(50):
        play(policy, SLOWER, 20, batch=8)
        for step in range(30):
            speculate = policy.choose(4, sampled=False)
            tokens, seconds = FASTER[speculate] if step >= catching_up else (1, 0.050)
            learn(policy, 4, speculate, tokens, seconds, drafted=speculate and step >= catching_up)
            assert speculate or policy.report()["greedy"] == {"4": True, "8": False}, "but for trials"


def test_one_that_never_does_is_not_waited_for_without_end() -> None:
    policy = Policy()
    play(policy, SLOWER, 3_000, batch=8)
    chosen = play_with_a_draft_that_is_left_behind(policy, 10**6, 10 * LONGEST_PAUSE)
    assert 0 < chosen.count(True) <= 10 * (CATCHING_UP + trial(8, speculating=True))


def test_windows_that_always_come_late_are_given_up() -> None:
    """Each is waited for in vain, comes after all, and the next is waited for again."""
    policy, waits, chosen = Policy(), 0, list[bool]()
    for step in range(12_000):
        speculate = policy.choose(1, sampled=False)
        waited = speculate and step % 2 == 0
        learn(policy, 1, waited, 1, 0.060 if waited else 0.010, in_vain=waited)
        waits += waited
        chosen.append(speculate)
    assert policy.report()["greedy"] == {"1": False}
    assert waits < 400, "trials, and what they waited for"
