"""A target split over two ranks, by gloo: the first speaks with the draft, both verify the same windows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from transformers import AutoTokenizer

from sglang_mirror.bench.identity import divergences
from sglang_mirror.bench.pair import embedded_pair
from sglang_mirror.bench.server import Server
from tests.e2e.fleet import (
    LOCKSTEP,
    ONE_CORE_EACH,
    Fleet,
    both,
    flags,
    generate_all,
    lockstep_trace,
    mirror_flags,
    prompts,
    report,
    with_draft,
)
from tests.e2e.oracle import DEFAULTS, steps_of_engine, steps_of_simulator
from tests.e2e.reference import reference_models

pytestmark = pytest.mark.server

SPLIT = ("--tp-size", "2")
NUM_TOKENS = 48
TRACE = lockstep_trace("union", "split-")


@pytest.fixture(scope="module")
def split() -> Iterator[tuple[Server, Server]]:
    """Plain and mirror, both split: a sum over ranks rounds otherwise than one over all.

    Mirror waits for every branch, so that its hits depend on no clock.
    """
    fleet = Fleet(embedded_pair(), label="split-")
    TRACE.unlink(missing_ok=True)
    words = mirror_flags(fleet.pair.draft, trace=TRACE, **LOCKSTEP)
    try:
        plain = fleet.launch("plain", flags(*SPLIT, "--disable-overlap-schedule"), environment=ONE_CORE_EACH)
        mirror = fleet.launch("mirror", flags(*SPLIT, *words), environment=ONE_CORE_EACH)
        yield plain.wait(), with_draft(mirror)
    finally:
        left = fleet.stop_all()
    assert not left


@pytest.mark.parametrize("concurrency", [1, 4])
def test_text_is_plain_decodings(split: tuple[Server, Server], concurrency: int) -> None:
    plain, mirror = both(split, lambda server: generate_all(server, prompts(8), 48, concurrency=concurrency))
    assert divergences(mirror, plain) == []


def test_it_is_mirror_that_answers(split: tuple[Server, Server]) -> None:
    """With windows, and branches that the draft had ready."""
    generate_all(split[1], prompts(8), 48, concurrency=1)
    counted = report(split[1])
    assert counted["accept_len"] > 2
    assert counted["hits"]["draft"] > 0
    assert counted["plain_steps"] < counted["steps"] / 2


def test_the_exit_finds_what_it_finds_in_a_whole_head(split: tuple[Server, Server]) -> None:
    """Each rank reads its part: windows, outcomes and hits are those of transformers' whole model."""
    pair = embedded_pair()
    models = reference_models(pair, kappa=DEFAULTS.kappa)
    tokenizer = AutoTokenizer.from_pretrained(pair.target)
    shortest = sorted((tokenizer.encode(prompt) for prompt in prompts(24)), key=len)[:2]
    sources = []
    for number, tokens in enumerate(shortest):
        wanted = steps_of_simulator(models, tokens, "union", NUM_TOKENS)
        assert steps_of_engine(split[1], TRACE, tokens, f"split-{number}", NUM_TOKENS) == wanted
        sources += [step.source for step in wanted]
    assert {"draft", "exit"} <= set(sources)
