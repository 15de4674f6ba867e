"""From answers to a result: what counts as speed, as acceptance, as the same text."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from sglang_mirror.bench.chat import Answer
from sglang_mirror.bench.client import Completion
from sglang_mirror.bench.runs import Lap, Run, counters, result


def answer(tokens: int, seconds: float, first: int = 0, **meta: Any) -> Answer:
    ids = tuple(range(first, first + tokens))
    return Answer((Completion("", tokens, seconds, {"completion_tokens": tokens, **meta}, ids),))


def run(*answers: Answer, **counted: int) -> Run:
    return Run(tuple(Lap((each,), each.seconds) for each in answers), Counter(counted))


def test_speeds() -> None:
    plain = [run(answer(10, 1.0), answer(20, 4.0))] * 3
    ours = [run(answer(10, 0.5), answer(20, 1.0))] * 3
    found = result("serial", ours, {"plain": plain, "serial": ours}, workload="w")
    assert found["tokens_per_s"]["median"] == pytest.approx(30 / 1.5)
    assert found["speedup"]["median"] == pytest.approx(30 / 1.5 / (30 / 5))
    assert found["speedup"]["of_means"] == pytest.approx((20 + 20) / (10 + 5))
    assert found["speedup"]["low"] <= found["speedup"]["of_totals"] <= found["speedup"]["high"]
    assert found["speedup"]["num_laps"] == 2
    assert set(found["ratios"]) == {"plain"}
    assert found["workload"] == "w"
    assert found["num_repeats"] == 3


def test_one_lap_has_a_ratio_and_no_interval() -> None:
    plain, ours = [run(answer(10, 1.0))] * 3, [run(answer(10, 0.5))] * 3
    found = result("mirror", ours, {"plain": plain})["speedup"]
    assert found["of_totals"] == pytest.approx(2.0)
    assert (found["low"], found["high"]) == (None, None)


def test_text_is_compared_token_by_token() -> None:
    plain = [run(answer(4, 1.0), answer(4, 1.0))]
    ours = [run(answer(4, 1.0), answer(4, 1.0, first=1))]
    assert result("mirror", ours, {"plain": plain})["text_equal"] == 0.5
    assert result("mirror", ours, {})["text_equal"] is None


def test_a_prefills_token_is_no_step_s() -> None:
    spoken = answer(9, 1.0, spec_verify_ct=2, spec_correct_drafts_histogram=[0, 0, 0, 2])
    found = result("standalone", [run(spoken)] * 2, {})
    assert found["accept_len"] == pytest.approx(4.0)
    assert found["accepted_histogram"] == [0, 0, 0, 4]
    assert found["hit_rate"] is None


def test_what_mirror_counted() -> None:
    report = {"steps": 4, "batches": 4, "hits": {"exit": 1, "draft": 2}, "verify_ms": 8.0, "waited_ms": 1.0}
    times = {"busy_ms": 4.0, "rendezvous_ms": 2.0, "exit_ms": 1.0, "cycles": 3, "cycle_ms": 12.0}
    times |= {"draft_windows": 6, "draft_forwards": 21}
    grown = counters({**report, **times, "draft": "ready"})
    found = result("mirror", [Run(run(answer(9, 1.0)).laps, grown)], {})
    assert found["hit_rate"] == {"all": 0.75, "exit": 0.25, "draft": 0.5}
    assert found["hidden_fraction"] == 0.75
    assert found["draft_forwards"] == 3.5
    parts = {"target": 2.0, "exit": 0.25, "draft_exposed": 0.25, "rendezvous": 0.5}
    assert found["step_ms"] == {**parts, "host": 1.0, "wall": 4.0}


def test_runs_through_several_tasks_join() -> None:
    joined = Run.joined([run(answer(4, 1.0), steps=2), run(answer(6, 3.0), steps=3)])
    assert joined.tokens_per_s == pytest.approx(10 / 4)
    assert joined.counted["steps"] == 5
