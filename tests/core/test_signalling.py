"""The early exit is read as long as its hits are worth more than the time that it takes."""

from __future__ import annotations

import math

import pytest

from sglang_mirror.core.signalling import ENOUGH, FIRST_PAUSE, Signalled, Signalling

RATE = 200.0  # tokens a second
WORTH = 1.5  # tokens that a hit saves
EVERY = 4  # steps, of which one is a hit by the exit


def play(exit_: Signalling, steps: int, *, exit_s: float, every: int = EVERY) -> list[bool]:
    """Whether it was read, step by step."""
    read = []
    for step in range(steps):
        read.append(exit_.decide(WORTH, RATE))
        if read[-1]:
            exit_.learn(Signalled(int(step % every == 0), exit_s))
    return read


BREAK_EVEN_S = WORTH / EVERY / RATE


@pytest.mark.parametrize(("exit_s", "pays"), [(0.8 * BREAK_EVEN_S, True), (1.25 * BREAK_EVEN_S, False)])
def test_it_is_read_up_to_what_its_hits_save(exit_s: float, pays: bool) -> None:
    read = play(Signalling(), 4 * ENOUGH, exit_s=exit_s)
    assert read == [True] * ENOUGH + [pays] * 3 * ENOUGH


def test_what_costs_nothing_is_read_while_anything_hits() -> None:
    assert all(play(Signalling(), 4 * ENOUGH, exit_s=0.0))
    silent = Signalling()
    for _ in range(ENOUGH):
        silent.learn(Signalled(0, 0.0))
    assert not silent.decide(math.inf, RATE)


def test_it_is_read_while_nobody_knows_what_a_miss_costs() -> None:
    unknown = Signalling()
    for _ in range(ENOUGH):
        unknown.learn(Signalled(1, 1.0))
    assert unknown.decide(math.inf, RATE)
    assert not unknown.decide(WORTH, RATE)


def test_it_is_tried_again_and_taken_up_where_it_has_come_to_pay() -> None:
    exit_ = Signalling()
    assert not play(exit_, ENOUGH + FIRST_PAUSE, exit_s=2 * BREAK_EVEN_S)[-1]
    tried = play(exit_, ENOUGH, exit_s=2 * BREAK_EVEN_S)
    assert all(tried)
    assert not any(play(exit_, 2 * FIRST_PAUSE, exit_s=2 * BREAK_EVEN_S))  # longer than before
    assert all(play(exit_, 10 * ENOUGH, exit_s=0.1 * BREAK_EVEN_S))
