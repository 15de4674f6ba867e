"""The soak, in short: what it counts as lost and wrong it counts, and of mirror it finds neither."""

from __future__ import annotations

import pytest

from sglang_mirror.bench.load import Expected, Load, LoadPlan, Span, expected_of
from sglang_mirror.bench.server import Server, free_port
from sglang_mirror.bench.soak import failures, soak

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def expected(plain_server: Server) -> Expected:
    return expected_of(plain_server)


def test_mirror_with_faults(mirror_server: Server, expected: Expected) -> None:
    found = soak(mirror_server, expected, LoadPlan(minutes=0.3, clients=6, faults=("stopped",)))
    assert failures(found) == []
    assert found["requests"] > 20
    assert {"sampled", "left"} <= found.keys()
    assert found["faults"]
    assert found["rss_mb"]["start"] > 100


def test_a_wrong_text_is_seen(mirror_server: Server, expected: Expected) -> None:
    altered = {prompt: (tokens[0] + 1, *tokens[1:]) for prompt, tokens in expected.items()}
    load = Load(mirror_server.url, altered, LoadPlan(minutes=0.0, clients=2))
    load.run(Span(2.0))
    greedy = load.counts["requests"] - load.counts["sampled"] - load.counts["left"]
    assert load.counts["wrong_text"] == greedy > 0


def test_a_lost_request_is_seen(expected: Expected) -> None:
    load = Load(f"http://127.0.0.1:{free_port()}", expected, LoadPlan(minutes=0.0, clients=1))
    load.run(Span(2.0))
    assert load.counts["lost"] == load.counts["requests"] > 0
    assert failures({**load.counts, "held": 0, "faults": [{"fault": "killed", "back_s": None}]})[1:] == [
        "not back: {'fault': 'killed', 'back_s': None}"
    ]
