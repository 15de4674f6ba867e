"""On the torch platform SGLang's own speculation serves as well, so it can be a baseline to compare with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sglang_mirror.bench.server import Server
from tests.e2e.fleet import Fleet, flags, generate, generate_all, prompts, texts

pytestmark = pytest.mark.server

# Steps, children a node, nodes.
WINDOWS = {"chain": (3, 1, 4), "tree": (3, 2, 6)}


@pytest.fixture(scope="module")
def standalone(fleet: Fleet, plain_server: Server) -> Iterator[dict[str, Server]]:  # noqa: ARG001
    """SGLang's STANDALONE with the pair's draft, for both windows; they start side by side, after plain."""
    found = {}
    for name, (steps, topk, nodes) in WINDOWS.items():
        speculation = {
            "algorithm": "STANDALONE",
            "draft-model-path": fleet.pair.draft,
            "num-steps": steps,
            "eagle-topk": topk,
            "num-draft-tokens": nodes,
        }
        words = [word for key, value in speculation.items() for word in (f"--speculative-{key}", str(value))]
        found[name] = fleet.launch(f"standalone-{name}", flags(*words))
    yield found
    assert not [process for name in WINDOWS for process in fleet.stop(f"standalone-{name}")]


@pytest.mark.parametrize("window", WINDOWS)
def test_standalone_gives_the_plain_text(
    plain_server: Server, standalone: dict[str, Server], window: str
) -> None:
    standalone_server = standalone[window].wait()
    wanted = texts(generate_all(plain_server, prompts(4)))
    answers = generate_all(standalone_server, prompts(4))
    assert texts(answers) == wanted
    # Above 1.0 some drafts were accepted, so their keys and values were kept, and in a tree moved.
    assert max(answer.meta["spec_accept_length"] for answer in answers) > 1.1
    assert texts(generate_all(standalone_server, prompts(4), concurrency=4)) == wanted
    sampled = generate(standalone_server, prompts(1)[0], temperature=1.0, top_k=20, top_p=0.9, min_p=0.01)
    assert sampled.num_tokens > 0
