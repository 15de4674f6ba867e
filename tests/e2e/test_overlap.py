"""SGLang's overlap schedule: it takes a step's results in while the next runs. The text is the same.

On a CPU nothing runs meanwhile, but who knows what and when is as on a GPU.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from sglang_mirror.bench.server import Server
from tests.e2e.fleet import LOGS, Fleet, generate_all, prompts, report, with_draft
from tests.e2e.test_lossless import (  # noqa: F401 - the same tests, of a server with this schedule
    Servers,
    test_abort_in_the_middle,
    test_cached_prefixes,
    test_flush_cache,
    test_grammar,
    test_hardly_any_tokens,
    test_logprobs,
    test_mixed_temperatures,
    test_penalties,
    test_prompts_of_several_chunks,
    test_several_at_once,
    test_stop_strings,
    test_stop_tokens,
    test_to_the_end_of_the_context,
    test_two_samples_of_one_prompt,
    test_very_different_lengths,
)

pytestmark = pytest.mark.server

TRACE = LOGS / "overlap.jsonl"


@pytest.fixture(scope="module")
def servers(fleet: Fleet) -> Iterator[Servers]:
    """Plain, and mirror with SGLang's overlap schedule."""
    TRACE.unlink(missing_ok=True)
    plain, overlapped = fleet.plain(), fleet.mirror("overlap", schedule="overlap", trace=TRACE)
    yield plain.wait(), with_draft(overlapped)
    assert fleet.stop("overlap") == []


@pytest.fixture(scope="module")
def overlapped(servers: Servers) -> Server:
    return servers[1]


def test_the_schedule_is_sglangs_own(servers: Servers) -> None:
    assert [server.info()["disable_overlap_schedule"] for server in servers] == [True, False]


def test_each_step_is_told_once_and_in_order(overlapped: Server) -> None:
    """Also the last one of a request, and none of those that it was verified for beyond its end."""
    written = len(TRACE.read_text(encoding="utf-8").splitlines()) if TRACE.exists() else 0
    answers = {
        answer.meta["id"]: answer for answer in generate_all(overlapped, prompts(6), 40, concurrency=3)
    }
    steps = [json.loads(line) for line in TRACE.read_text(encoding="utf-8").splitlines()[written:]]
    for rid, answer in answers.items():
        ours = [step for step in steps if step["rid"] == rid]
        said = [token for step in ours for token in step["committed"]]
        # The first token is the prefill's; the last step may go beyond the answer's end.
        assert tuple(said[: len(answer.token_ids) - 1]) == answer.token_ids[1:]
        assert len(said) - len(ours[-1]["committed"]) < len(answer.token_ids) - 1
        lengths = [step["committed_len"] for step in ours]
        assert lengths[1:] == [
            length + len(step["committed"]) for length, step in zip(lengths[:-1], ours[:-1], strict=True)
        ]


def test_branches_are_hit_and_the_draft_is_told_all(overlapped: Server, fleet: Fleet) -> None:
    before = report(overlapped)
    generate_all(overlapped, prompts(4), 40)
    after = report(overlapped)
    assert after["hits"]["draft"] > before["hits"]["draft"]
    assert after["connections"] == 1
    # One at a time: the step that is launched before an answer's end is seen counts for nobody.
    assert after["batches"] - before["batches"] == after["steps"] - before["steps"]
    assert after["requests"] == 0
    assert "does not hold this request" not in (LOGS / f"{fleet.label}overlap.log").read_text(
        errors="replace"
    )
