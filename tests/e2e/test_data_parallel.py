"""Several replicas of the target behind one address: each has a draft of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sglang_mirror.bench.identity import divergences
from sglang_mirror.bench.server import Server
from tests.e2e.fleet import (
    LOGS,
    ONE_CORE_EACH,
    Fleet,
    both,
    flags,
    generate_all,
    mirror_flags,
    prompts,
    report,
    with_draft,
)

pytestmark = pytest.mark.server

DRAFT_TRACES = LOGS / "replicas-draft.jsonl", LOGS / "replicas-draft.jsonl.1"


@pytest.fixture(scope="module")
def servers(fleet: Fleet) -> Iterator[tuple[Server, Server]]:
    """Plain, and mirror of two replicas."""
    for trace in DRAFT_TRACES:
        trace.unlink(missing_ok=True)
    words = mirror_flags(fleet.pair.draft, speculate="always", draft_trace=DRAFT_TRACES[0])
    plain = fleet.plain()
    replicas = fleet.launch("replicas", flags(*words, "--dp-size", "2"), environment=ONE_CORE_EACH)
    yield plain.wait(), with_draft(replicas)
    assert fleet.stop("replicas") == []


def test_every_replica_decodes_with_its_draft(servers: tuple[Server, Server]) -> None:
    plain, replicas = both(servers, lambda server: generate_all(server, prompts(8), concurrency=4))
    assert divergences(replicas, plain) == []
    reports = [state["mirror"] for state in servers[1].info()["internal_states"]]
    assert [each["draft"] for each in reports] == ["ready", "ready"]
    pids = {each["draft_pid"] for each in reports}
    assert len(pids) == 2
    assert all(each["steps"] > 0 and each["accept_len"] > 1 for each in reports)
    assert report(servers[1])["draft_pid"] in pids
    assert all(trace.is_file() for trace in DRAFT_TRACES)
