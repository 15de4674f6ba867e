"""At temperature 1 the tokens follow the target's law, whether their window was a hit, fresh, or none."""

from __future__ import annotations

from pathlib import Path

import pytest

from sglang_mirror.bench.arms import Pair
from sglang_mirror.bench.exact import ExactTarget, Sampling
from sglang_mirror.bench.law import FALSE_ALARM, judged_setting, sample
from sglang_mirror.bench.server import Server
from tests.e2e.fleet import MIRROR_TRACE, Fleet, prompts

pytestmark = pytest.mark.server

NUM_REQUESTS = 140
ALL = Sampling("top_k, top_p and min_p", top_k=8, top_p=0.9, min_p=0.1)


def holds(server: Server, pair: Pair, trace: Path) -> None:
    """Samples of a server that traces its steps, against the exact law."""
    target = ExactTarget(pair.target)
    texts = [target.tokens_of(prompt) for prompt in prompts(8)]
    samples = sample(server.url, texts, ALL, count=NUM_REQUESTS, concurrency=8, trace=trace)
    result = judged_setting(target, "mirror", ALL, samples, texts)
    groups = result["groups"]
    assert groups["all windows"]["num_tokens"] == NUM_REQUESTS * 15
    assert any(name.startswith("hit") for name in groups)
    assert any(name.startswith("fresh") for name in groups)
    assert result["smallest_p"] > FALSE_ALARM / result["num_tests"] / 10, groups


def test_law(fleet: Fleet, mirror_server: Server) -> None:
    holds(mirror_server, fleet.pair, MIRROR_TRACE)
