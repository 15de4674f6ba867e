"""The oracle: core's simulator with the same models gives the engine's windows, outcomes and hits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from transformers import AutoTokenizer

from sglang_mirror.bench.client import Completion
from sglang_mirror.bench.identity import divergences
from sglang_mirror.bench.law import read_trace
from sglang_mirror.bench.server import Server
from sglang_mirror.core.simulator import Models
from sglang_mirror.core.window import Window
from tests.e2e.fleet import (
    ROOTS,
    TREE,
    TREE_SHAPE,
    Fleet,
    generate_all,
    lockstep_trace,
    prompts,
    with_draft,
)
from tests.e2e.oracle import CHAIN, DEFAULTS, steps_of_engine, steps_of_simulator
from tests.e2e.reference import reference_models

pytestmark = pytest.mark.server

NUM_TOKENS = 48


@pytest.fixture(scope="module")
def models(fleet: Fleet) -> Models:
    return reference_models(fleet.pair, kappa=DEFAULTS.kappa)


@pytest.fixture(scope="module")
def token_ids(fleet: Fleet) -> list[list[int]]:
    """Four prompts, short ones: the simulator computes every prefix anew."""
    tokenizer = AutoTokenizer.from_pretrained(fleet.pair.target)
    return sorted((tokenizer.encode(prompt) for prompt in prompts(24)), key=len)[:4]


@pytest.fixture(scope="module")
def plainly(plain_server: Server) -> list[Completion]:
    return generate_all(plain_server, prompts(8))


KINDS = (*ROOTS, TREE)


@pytest.fixture(params=KINDS)
def lockstep(request: pytest.FixtureRequest, fleet: Fleet) -> Iterator[tuple[str, Server]]:
    """A source of roots and its server, while the next one's starts; gone after its test."""
    roots: str = request.param
    for name in KINDS[KINDS.index(roots) :][:2]:
        fleet.lockstep(name)
    yield roots, with_draft(fleet.lockstep(roots))
    assert fleet.stop(f"lockstep-{roots}") == []


def test_engine_does_what_the_simulator_says(
    models: Models, token_ids: list[list[int]], plainly: list[Completion], lockstep: tuple[Any, Server]
) -> None:
    """And all texts are plain decoding's, with any source of roots."""
    roots, server = lockstep
    hits, off_first_path = 0, 0
    assert divergences(generate_all(server, prompts(8), concurrency=4), plainly) == []
    for number, tokens in enumerate(token_ids):
        mode, shape = ("union", TREE_SHAPE) if roots == TREE else (roots, CHAIN)
        wanted = steps_of_simulator(models, tokens, mode, NUM_TOKENS, shape)
        rid = f"oracle-{roots}-{number}"
        found = steps_of_engine(server, lockstep_trace(roots), tokens, rid, NUM_TOKENS)
        assert found == wanted
        off_first_path += sum(map(left_the_first_path, read_trace(lockstep_trace(roots))[rid]))
        hits += sum(step.source is not None for step in wanted)
    assert (hits > 0) == (roots != "none")
    assert (off_first_path > 0) == (roots == TREE)


def left_the_first_path(line: dict[str, Any]) -> bool:
    """Whether an accepted node was not its parent's first child: its KV lay behind that of others."""
    window = Window(tuple(line["window"]), tuple(line["parents"]))
    node = window.reached(line["committed"][:-1])
    while node:
        if node != window.children(window.parents[node])[0]:
            return True
        node = window.parents[node]
    return False
