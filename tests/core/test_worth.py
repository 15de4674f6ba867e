"""What a row must bring, from machines whose times are known."""

from __future__ import annotations

import math
import random

import pytest

from sglang_mirror.core.worth import ENOUGH, MOST, Worth, least_awaited

FORWARD, ROW = 0.040, 0.0015  # seconds


def play(
    worth: Worth, steps: int, *, row: float = ROW, noise: float = 0.0, sizes: tuple[int, ...] = (3, 6, 9)
) -> None:
    """Steps of four tokens, their verifications' times known."""
    rng = random.Random(0)
    for _ in range(steps):
        rows = rng.choice(sizes)
        worth.verified(rows, FORWARD + row * rows + noise * rng.gauss(0.0, 1.0))
        worth.stepped(4, FORWARD + row * 6)


def test_a_row_must_bring_what_its_time_would_bring_elsewhere() -> None:
    worth = Worth()
    play(worth, 200)
    assert math.exp(worth.least) == pytest.approx(ROW * 4 / (FORWARD + ROW * 6))


def test_noise_blurs_it_and_no_more() -> None:
    worth = Worth()
    play(worth, 500, noise=0.002)
    assert math.exp(worth.least) == pytest.approx(ROW * 4 / (FORWARD + ROW * 6), rel=0.4)


def test_nothing_is_refused_before_enough_is_known() -> None:
    worth = Worth()
    assert worth.least == -math.inf
    play(worth, int(ENOUGH) - 1)
    assert worth.least == -math.inf


def test_alike_windows_tell_nothing_of_a_row() -> None:
    worth = Worth()
    play(worth, 500, noise=0.002, sizes=(9,))
    assert worth.least == -math.inf


def test_where_rows_are_free_every_node_is_worth_it() -> None:
    worth = Worth()
    play(worth, 500, row=-0.001)
    assert worth.least == -math.inf


def test_a_likely_node_is_always_worth_it() -> None:
    worth = Worth()
    play(worth, 500, row=0.5)
    assert worth.least == math.log(MOST)


def test_forgets_what_the_machine_was_like() -> None:
    worth = Worth()
    play(worth, 500, row=0.004)
    play(worth, 500)
    assert math.exp(worth.least) == pytest.approx(ROW * 4 / (FORWARD + ROW * 6), rel=0.05)


def test_the_rate_is_that_of_steps_with_windows() -> None:
    worth = Worth()
    assert worth.rate == 0.0
    play(worth, 300)
    assert worth.rate == pytest.approx(4 / (FORWARD + ROW * 6))


@pytest.mark.parametrize(
    ("rate", "forward_s", "num_windows", "least"),
    [
        (100.0, 0.002, 1, 0.2),  # two tenths of a token, which the target would have made meanwhile
        (100.0, 0.002, 4, 0.05),
        (2000.0, 0.002, 1, 1.0),  # nothing is worth it
        (0.0, 0.002, 1, 0.0),
        (100.0, 0.0, 1, 0.0),
    ],
)
def test_a_wait_must_bring_what_its_time_would_bring_elsewhere(
    rate: float, forward_s: float, num_windows: int, least: float
) -> None:
    assert math.exp(least_awaited(rate, forward_s, num_windows)) == pytest.approx(least)
