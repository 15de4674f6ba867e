"""With SGLang's batch-invariant kernels and fa3 the text is plain decoding's to the last token.

There a row of a product does not depend on the rows beside it, and fa3 computes a verification's attention in
the same order as a single token's. The other backends do not: with them it matters how many tokens there are.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from sglang_mirror.bench.client import Completion, payload
from sglang_mirror.bench.identity import divergences
from sglang_mirror.bench.pair import ROOT, held_out
from sglang_mirror.bench.server import Server
from tests.e2e.fleet import Fleet, mirror_flags, report
from tests.gpu.test_text import (
    DETERMINISTIC,
    FAMILIES,
    HERE,
    NUM_PROMPTS,
    NUM_TOKENS,
    ROWS,
    START_TIMEOUT_S,
    ask_in_both_ways,
    flags_of,
    pair_of,
    skip_without,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.server,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here"),
]

# With more than 64 rows of a KV head in a verification fa3 takes other blocks, for heads of 64 channels.
FLAGS = (*flags_of("fa3"), "--enable-deterministic-inference")
TEMPERATURES = {"deterministic": 0.0, "sampled": 0.8}


@pytest.fixture(scope="module", params=FAMILIES)
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Server, Server]]:
    """The family, plain decoding, and mirror."""
    skip_without("fa3", DETERMINISTIC)
    pair = pair_of(request.param, tmp_path_factory)
    fleet = Fleet(pair, label=f"gpu-{request.param}-deterministic-")
    try:
        plain = fleet.launch("plain", (*FLAGS, "--disable-overlap-schedule"))
        mirror = fleet.launch("mirror", (*FLAGS, *mirror_flags(pair.draft, **HERE)))
        yield request.param, plain.wait(START_TIMEOUT_S), mirror.wait(START_TIMEOUT_S).wait_for_draft()
    finally:
        left = fleet.stop_all()
    assert not left


def answers_of(server: Server, temperature: float) -> list[Completion]:
    """Those to the prompts, each drawn by a seed of its own."""
    bodies = [
        payload(prompt.text, num_tokens=NUM_TOKENS, temperature=temperature, sampling_seed=seed)
        for seed, prompt in enumerate(held_out(NUM_PROMPTS))
    ]
    return ask_in_both_ways(server, bodies)


@pytest.mark.parametrize("way", TEMPERATURES)
def test_text_is_the_same(served: tuple[str, Server, Server], way: str) -> None:
    family, plain, mirror = served
    with ROWS.row((family, "fa3", way)) as row:
        before = report(mirror)
        wanted, answers = (answers_of(server, TEMPERATURES[way]) for server in (plain, mirror))
        differing = divergences(answers, wanted)
        after = report(mirror)
        steps = after["steps"] - before["steps"]
        row |= {
            **{"num_prompts": NUM_PROMPTS, "identical": NUM_PROMPTS - len(differing), "ties": 0},
            "unexplained": [{"prompt": at.prompt, "position": at.position} for at in differing],
            **{"steps": steps, "plain_steps": after["plain_steps"] - before["plain_steps"]},
            "accept_len": (after["committed"] - before["committed"]) / steps,
            "hit_rate": (sum(after["hits"].values()) - sum(before["hits"].values())) / steps,
            "command": mirror.command_line.replace(f"{ROOT}/", ""),
        }
        assert not differing
        assert row["accept_len"] > 1.0
