"""The law against the simplest cases, worked out by hand."""

from __future__ import annotations

import dataclasses

import pytest

from sglang_mirror.core.latency import Parts, step_ms

PARTS = Parts(before_exit=50, exit=2, after_exit=40, rollout=30, rendezvous=1, fresh=45, host=5)


def test_a_hit_hides_its_rollout() -> None:
    assert step_ms(PARTS, hit_rate=1.0) == 50 + 2 + 40 + 1 + 5


def test_what_does_not_fit_is_paid() -> None:
    slow = dataclasses.replace(PARTS, rollout=60)
    assert step_ms(slow, hit_rate=1.0) == 50 + 2 + 60 + 1 + 5


def test_without_hits_it_is_serial_decoding() -> None:
    serial = dataclasses.replace(PARTS, exit=0, rollout=0)
    assert step_ms(serial, hit_rate=0.0) == 50 + 40 + 45 + 1 + 5


@pytest.mark.parametrize("hit_rate", [0.25, 0.5, 0.75])
def test_a_miss_costs_a_fresh_rollout(hit_rate: float) -> None:
    assert step_ms(PARTS, hit_rate=hit_rate) == pytest.approx(98 + (1 - hit_rate) * 45)
