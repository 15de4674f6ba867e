"""What of waiting is left to be measured, and how a step's requests are judged."""

from __future__ import annotations

import math
from typing import Any

import pytest

from sglang_mirror.config import MirrorConfig
from sglang_mirror.core.branches import Branch
from sglang_mirror.core.signalling import ENOUGH as ENOUGH_SIGNALS
from sglang_mirror.core.signalling import Signalled
from sglang_mirror.core.waiting import ENOUGH, Fared
from sglang_mirror.core.window import Window
from sglang_mirror.engine.judging import fared, speculation_of

WAITS_IN_VAIN = [Fared(None, awaited=True, tokens=1, hit=False)]


@pytest.mark.parametrize(
    ("settings", "least"),
    [
        ({}, math.inf),  # as measured: it is never worth it
        ({"miss": "plain"}, math.inf),
        ({"miss": "wait"}, 0.0),
        ({"roots": "none"}, 0.0),
        ({"root_budget": 0}, 0.0),
        ({"speculate": "always"}, 0.0),
        ({"lockstep": True}, 0.0),
        ({"trace": "steps.jsonl"}, 0.0),
    ],
)
def test_who_is_waited_for_is_measured_unless_windows_are_wanted_always(
    settings: dict[str, Any], least: float
) -> None:
    judged = speculation_of(MirrorConfig(**settings), resizable=True)
    for _ in range(2 * ENOUGH):
        judged.begin(1, sampled=False, cycle_s=0.060)
        judged.end(WAITS_IN_VAIN, rows=1, seconds=0.010, waited_s=0.050, tokens=1)
    assert judged.least_misses == least
    assert judged.waits(1) is (least == 0.0)


@pytest.mark.parametrize(
    ("settings", "always"),
    [
        ({}, False),
        ({"roots": "union"}, True),
        ({"roots": "exit"}, True),
        ({"speculate": "always"}, True),
        ({"lockstep": True}, True),
        ({"trace": "steps.jsonl"}, True),
    ],
)
def test_the_exit_goes_unread_where_it_hits_nothing_unless_it_is_asked_for(
    settings: dict[str, Any], always: bool
) -> None:
    judged = speculation_of(MirrorConfig(**settings), resizable=True)
    asked = []
    for _ in range(2 * ENOUGH_SIGNALS):
        judged.begin(1, sampled=False, cycle_s=0.060)
        asked.append(judged.signals())
        judged.end(
            WAITS_IN_VAIN,
            rows=1,
            seconds=0.010,
            waited_s=0.050,
            tokens=1,
            signalled=Signalled(0, 0.001) if asked[-1] else None,
        )
    assert asked == [True] * ENOUGH_SIGNALS + [always] * ENOUGH_SIGNALS


def test_a_step_that_tells_nothing_of_its_draft_is_left_out() -> None:
    window = Window.chain(5, (6, 7))
    hit = Branch(window, "exit")
    found = fared([False, None, False], [window, window, None], [[6, 9], [6], [8]], [hit, None, None])
    assert found == [Fared(2, False, 2, True), Fared(None, False, 1, False)]
