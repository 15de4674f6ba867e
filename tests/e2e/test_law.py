"""At temperature 1 the tokens follow the target's law, whether their window was a hit, fresh, or none."""

from __future__ import annotations

import pytest

from sglang_mirror.bench.exact import ExactTarget, Sampling
from sglang_mirror.bench.law import FALSE_ALARM, judged_setting, sample
from sglang_mirror.bench.server import Server
from tests.e2e.fleet import MIRROR_TRACE, Fleet, prompts

pytestmark = pytest.mark.server

NUM_REQUESTS = 140
BOTH = Sampling("top_k and top_p", top_k=8, top_p=0.8)


def test_law(fleet: Fleet, mirror_server: Server) -> None:
    target = ExactTarget(fleet.pair.target)
    texts = [target.tokens_of(prompt) for prompt in prompts(8)]
    samples = sample(mirror_server.url, texts, BOTH, count=NUM_REQUESTS, concurrency=8, trace=MIRROR_TRACE)
    result = judged_setting(target, "mirror", BOTH, samples, texts)
    groups = result["groups"]
    assert groups["all windows"]["num_tokens"] == NUM_REQUESTS * 15
    assert any(name.startswith("hit") for name in groups)
    assert any(name.startswith("fresh") for name in groups)
    assert result["smallest_p"] > FALSE_ALARM / result["num_tests"] / 10, groups
