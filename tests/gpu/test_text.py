"""On a GPU: the text is the plain server's, by every attention backend, with graphs and without, in trees.

Number formats of 16 bits round a verification of several tokens otherwise than a step of one, so two tokens
that are all but equally probable may change places. A difference is accepted there alone: where plain
decoding itself holds the two for as good as equal.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from sglang_mirror.bench.arm_specs import NOBODY
from sglang_mirror.bench.arms import Pair
from sglang_mirror.bench.client import Completion, complete_all, payload
from sglang_mirror.bench.gpu import usable
from sglang_mirror.bench.identity import divergences
from sglang_mirror.bench.pair import ROOT, embedded_pair, held_out
from sglang_mirror.bench.server import Server
from tests.e2e.fleet import GAMMA, LOCKSTEP, OUT, SERVING, Fleet, mirror_flags, report
from tests.e2e.test_tap import tiny_pair
from tests.gpu.rows import Key, Rows

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.server,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here"),
]

FAMILIES = ("qwen3", "llama")
BACKENDS = ("triton", "flashinfer", "fa3")
# Two logits above 16, a step of bfloat16 each apart from where they were. On a CPU, where plain decoding's
# own text changes with the batch for 12 of 60 prompts, the widest gap that was crossed is 0.0625.
TIE = 0.25
# Of the candidates that plain decoding is asked for: more of them than two may be as good as equal.
NUM_LIKELY = 5
# Several servers at once compile kernels at their first start.
START_TIMEOUT_S = 450.0
NUM_PROMPTS, NUM_TOKENS, CONCURRENCY = 24, 96, 8
EAGER = ("--disable-decode-cuda-graph",)
UNCAPTURED = ("--disable-prefill-cuda-graph",)  # sooner started
TREE = ("--speculative-eagle-topk", "3", "--speculative-num-draft-tokens", str(2 * GAMMA))
# With windows always: left to itself mirror would find a target so small faster without.
HERE = {"draft_device": "cuda:0", "speculate": "always"}
# Name: further flags, mirror's settings.
WAYS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "graphs": ((), HERE),
    "exit-from-graphs": ((), {**HERE, **LOCKSTEP, "roots": "exit"}),
    "exit-eager": (EAGER, {**HERE, **LOCKSTEP, "roots": "exit"}),
    "overlap": ((), {**HERE, "schedule": "overlap"}),
    "tree": (TREE, HERE),
}

# What is left when the draft is away; and with prefills captured, as SGLang does by itself.
NO_DRAFT = "no-draft"

# The text is the same to the bit there, if it is anywhere; see docs/operations.md.
DETERMINISTIC = [(family, "fa3", way) for family in FAMILIES for way in ("deterministic", "sampled")]
ALL_WAYS = (*WAYS, NO_DRAFT)
# FlashInfer's kernels may have to be compiled first, for minutes: what needs none of them is over by then.
PLACES = [(family, backend) for backend in BACKENDS for family in FAMILIES]
ROWS = Rows(
    OUT / "gpu-check.json", [*((*place, way) for place in PLACES for way in ALL_WAYS), *DETERMINISTIC]
)


@dataclass(frozen=True, slots=True)
class Served:
    """The servers of one family and backend."""

    family: str
    backend: str
    plain: Server
    ways: dict[str, Server]


def flags_of(
    backend: str, *, dtype: str = "bfloat16", prefill: Sequence[str] = UNCAPTURED
) -> tuple[str, ...]:
    return (
        *("--dtype", dtype, "--max-total-tokens", "16384", "--attention-backend", backend),
        *("--sampling-backend", "pytorch", "--cuda-graph-max-bs-decode", "8"),
        *("--max-running-requests", "16", *SERVING, *prefill),
    )


def skip_without(backend: str, keys: Sequence[Key]) -> None:
    """Skip what needs an attention backend that is not installed; the rows of these keys say so."""
    if not usable(backend):
        ROWS.failed(keys, reason := f"{backend} is not installed")
        pytest.skip(reason)


def pair_of(family: str, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    if family == "llama":
        return tiny_pair("llama", tmp_path_factory.mktemp("llama"))
    return embedded_pair("bfloat16")


@pytest.fixture(scope="module", params=PLACES, ids="-".join)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The servers of one family and backend, started side by side, gone before the next ones."""
    family, backend = request.param
    skip_without(backend, [(family, backend, way) for way in ALL_WAYS])
    pair = pair_of(family, tmp_path_factory)
    fleet = Fleet(pair, label=f"gpu-{family}-{backend}-")
    try:
        plain = fleet.launch("plain", (*flags_of(backend), "--disable-overlap-schedule"))
        ways = {
            way: fleet.launch(way, (*flags_of(backend), *more, *mirror_flags(pair.draft, **settings)))
            for way, (more, settings) in WAYS.items()
        }
        words = (*flags_of(backend, prefill=()), *mirror_flags(None, **NOBODY))
        ways[NO_DRAFT] = fleet.launch(NO_DRAFT, words)
        yield Served(family, backend, plain, ways)
    finally:
        left = fleet.stop_all()
    assert not left


_REFERENCES: dict[int, list[Completion]] = {}


def answers_of(server: Server, **wanted: Any) -> list[Completion]:
    """Those to the prompts; `wanted` goes into each request."""
    bodies = [{**payload(prompt.text, num_tokens=NUM_TOKENS), **wanted} for prompt in held_out(NUM_PROMPTS)]
    return ask_in_both_ways(server, bodies)


def ask_in_both_ways(server: Server, bodies: Sequence[dict[str, Any]]) -> list[Completion]:
    """Half of them one at a time, the others several at once."""
    half = len(bodies) // 2
    alone = complete_all(server.url, bodies[:half])
    return alone + complete_all(server.url, bodies[half:], concurrency=CONCURRENCY)


def reference(server: Server) -> list[Completion]:
    """Plain decoding's, with the most probable tokens at each place."""
    if server.port not in _REFERENCES:
        server.wait(START_TIMEOUT_S)
        _REFERENCES[server.port] = answers_of(server, return_logprob=True, top_logprobs_num=NUM_LIKELY)
    return _REFERENCES[server.port]


def is_tie(ours: Completion, plain: Completion, position: int) -> bool:
    """Whether plain decoding held our token for as good as equal to its own."""
    likely = {token: logprob for logprob, token, *_ in plain.meta["output_top_logprobs"][position]}
    return max(likely.values()) - likely.get(ours.token_ids[position], -math.inf) < TIE


def compared(served: Served, way: str, row: dict[str, Any]) -> dict[str, Any]:
    """What a server reports when its answers have been compared with plain decoding's, for the row too."""
    wanted, server = reference(served.plain), served.ways[way]
    answers = answers_of(server)
    differing = divergences(answers, wanted)
    unexplained = [
        {"prompt": at.prompt, "position": at.position, "said": answers[at.prompt].token_ids[at.position]}
        | {"plain": wanted[at.prompt].meta["output_top_logprobs"][at.position]}
        for at in differing
        if not is_tie(answers[at.prompt], wanted[at.prompt], at.position)
    ]
    counted = report(server)
    row |= {
        **{"num_prompts": len(wanted), "identical": len(wanted) - len(differing)},
        **{"ties": len(differing) - len(unexplained), "unexplained": unexplained},
        **{key: counted[key] for key in ("accept_len", "hit_rate", "steps", "plain_steps", "plain_nodes")},
        "command": server.command_line.replace(f"{ROOT}/", ""),
    }
    assert not unexplained
    return counted


@pytest.mark.parametrize("way", WAYS)
def test_text_is_plain_decodings(served: Served, way: str) -> None:
    with ROWS.row((served.family, served.backend, way)) as row:
        served.ways[way].wait(START_TIMEOUT_S).wait_for_draft()
        counted = compared(served, way, row)
        assert counted["accept_len"] > 1.0
        assert counted["plain_steps"] < counted["steps"] / 2
        if way.startswith("exit"):
            assert counted["hits"]["exit"] > 0


def test_text_without_a_draft(served: Served) -> None:
    """Steps without windows have graphs of their own, of the root alone."""
    with ROWS.row((served.family, served.backend, NO_DRAFT)) as row:
        served.ways[NO_DRAFT].wait(START_TIMEOUT_S)
        counted = compared(served, NO_DRAFT, row)
        assert counted["plain_nodes"] == 1
        assert counted["plain_steps"] == counted["steps"] > 0
