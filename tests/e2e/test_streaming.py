"""Streaming drafts and trees behind real servers: plain decoding's text, and windows of fewer forwards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from sglang_mirror.bench.identity import divergences
from sglang_mirror.bench.pair import embedded_streaming
from sglang_mirror.bench.server import Server
from sglang_mirror.train.shapes import draft_config
from sglang_mirror.train.start import start_model
from sglang_mirror.train.streaming import StreamingModel, save_streaming
from tests.e2e.fleet import (
    GAMMA,
    Fleet,
    draft_at,
    flags,
    generate_all,
    mirror_flags,
    prompts,
    report,
    with_draft,
)
from tests.e2e.test_lossless import test_to_the_end_of_the_context as to_the_contexts_end

pytestmark = pytest.mark.server

# Deeper than such a window has nodes once it ends early.
DEPTH, TOPK, NODES = "--speculative-num-steps", "--speculative-eagle-topk", "--speculative-num-draft-tokens"
MOST_ROUNDS = 8
DEEP_TREES = (DEPTH, "10", TOPK, "3", NODES, "16")


@pytest.fixture(scope="module")
def streaming(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    """A server whose draft's streams were never trained, and one with trees by the embedded streams.

    The untrained draft streams in branches too, which on a CPU it has to be told.
    """
    draft, folder = fleet.pair.draft, tmp_path_factory.mktemp("streaming") / "draft"
    student = StreamingModel(start_model(draft.parent, "draft", draft_config()), count=2, num_layers=1)
    save_streaming(student, draft, folder, "")
    endpoint = f"ipc://{folder.parent}/streaming"
    words = mirror_flags(embedded_streaming(), speculate="always")
    trees = fleet.launch("trees", flags(*words, *DEEP_TREES))
    with draft_at(endpoint, replace(fleet.pair, draft=folder), streamed_branches=True):
        chains = fleet.launch("streaming", flags(*mirror_flags(None, draft_endpoint=endpoint)))
        yield with_draft(chains), with_draft(trees)
    assert fleet.stop("streaming") == []
    assert fleet.stop("trees") == []


def test_text_and_forwards(streaming: tuple[Server, Server], plain_server: Server) -> None:
    """Most of what untrained streams say is wrong, and costs nothing but time."""
    found = generate_all(streaming[0], prompts(8), concurrency=4)
    assert divergences(found, generate_all(plain_server, prompts(8))) == []
    counted = report(streaming[0])
    assert counted["draft_windows"] > 0
    assert counted["draft_forwards"] < (GAMMA - 1) * counted["draft_windows"]


def test_wide_windows_at_the_end_of_the_context(
    streaming: tuple[Server, Server], plain_server: Server, fleet: Fleet
) -> None:
    """SGLang reserves more slots for them than it has room for behind the context."""
    to_the_contexts_end((plain_server, streaming[1]), fleet)


def test_trees_end_early(streaming: tuple[Server, Server], plain_server: Server) -> None:
    """Sampled text, of which the draft knows little, ends windows soonest; the next ones are as short.

    What a row costs is measured, so on a busy host it may take a while to be seen.
    """
    for _ in range(MOST_ROUNDS):
        sampled = generate_all(streaming[1], prompts(8), 64, concurrency=2, temperature=1.0)
        assert all(answer.token_ids for answer in sampled)
        if report(streaming[1])["least_chance"] > 0.0:
            break
    else:
        pytest.fail(f"no window ended early in {MOST_ROUNDS} rounds: {report(streaming[1])}")
    found = generate_all(streaming[1], prompts(8))
    assert divergences(found, generate_all(plain_server, prompts(8))) == []
