"""On a GPU: the text is the plain server's, by every attention backend, with graphs and without, in trees.

Number formats of 16 bits round a verification of several tokens otherwise than a step of one, so two tokens
that are all but equally probable may change places. A difference is accepted there alone: where plain
decoding itself holds the two for as good as equal.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from sglang_mirror.bench.client import Completion, complete_all, payload
from sglang_mirror.bench.identity import divergences
from sglang_mirror.bench.output import write_results
from sglang_mirror.bench.pair import ROOT, embedded_pair, held_out
from sglang_mirror.bench.server import Server
from tests.e2e.fleet import GAMMA, LOCKSTEP, SERVING, Fleet, mirror_flags, report, with_draft
from tests.e2e.test_tap import tiny_pair

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.server,
    pytest.mark.timeout(500),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here"),
]

FAMILIES = ("qwen3", "llama")
BACKENDS = ("triton", "flashinfer", "fa3")
# Of the logits' rounding in bfloat16: 1 in 256 of about 20.
TIE = 0.15
NUM_PROMPTS, NUM_TOKENS, CONCURRENCY = 24, 96, 8
RESULTS = ROOT / "out/gpu-check.json"
EAGER = ("--disable-decode-cuda-graph",)
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


def usable(backend: str) -> bool:
    """Whether what SGLang needs for it is installed."""
    try:
        importlib.import_module(
            {"flashinfer": "flashinfer", "fa3": "sgl_kernel.flash_attn"}.get(backend, "triton")
        )
    except ImportError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Served:
    """The servers of one family and backend."""

    family: str
    backend: str
    plain: Server
    ways: dict[str, Server]


def flags_of(backend: str, *, dtype: str = "bfloat16") -> tuple[str, ...]:
    return (
        *("--dtype", dtype, "--max-total-tokens", "16384", "--attention-backend", backend),
        *("--sampling-backend", "pytorch", "--disable-prefill-cuda-graph", "--cuda-graph-max-bs-decode", "8"),
        *("--max-running-requests", "16", *SERVING),
    )


@pytest.fixture(scope="module", params=itertools.product(FAMILIES, BACKENDS), ids="-".join)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The servers of one family and backend, started side by side, gone before the next ones."""
    family, backend = request.param
    if not usable(backend):
        pytest.skip(f"{backend} is not installed")
    llama = family == "llama"
    pair = tiny_pair("llama", tmp_path_factory.mktemp("llama")) if llama else embedded_pair("bfloat16")
    fleet = Fleet(pair, label=f"gpu-{family}-{backend}-")
    try:
        plain = fleet.launch("plain", (*flags_of(backend), "--disable-overlap-schedule"))
        ways = {
            way: fleet.launch(way, (*flags_of(backend), *more, *mirror_flags(pair.draft, **settings)))
            for way, (more, settings) in WAYS.items()
        }
        yield Served(family, backend, plain, ways)
    finally:
        left = fleet.stop_all()
    assert not left


RESULTS_SO_FAR: list[dict[str, Any]] = []
_REFERENCES: dict[int, list[Completion]] = {}


def answers_of(server: Server, **wanted: Any) -> list[Completion]:
    """Half of the prompts one at a time, the others several at once; `wanted` goes into each request."""
    bodies = [{**payload(prompt.text, num_tokens=NUM_TOKENS), **wanted} for prompt in held_out(NUM_PROMPTS)]
    half = NUM_PROMPTS // 2
    alone = complete_all(server.url, bodies[:half])
    return alone + complete_all(server.url, bodies[half:], concurrency=CONCURRENCY)


def reference(server: Server) -> list[Completion]:
    """Plain decoding's, with the two most probable tokens at each place."""
    if server.port not in _REFERENCES:
        _REFERENCES[server.port] = answers_of(server.wait(), return_logprob=True, top_logprobs_num=2)
    return _REFERENCES[server.port]


def is_tie(ours: Completion, plain: Completion, position: int) -> bool:
    """Whether plain decoding held our token, its second best, for as good as equal to its own."""
    (best, _, *_), (second, token, *_) = plain.meta["output_top_logprobs"][position][:2]
    return ours.token_ids[position] == token and best - second < TIE


@pytest.mark.parametrize("way", WAYS)
def test_text_is_plain_decodings(served: Served, way: str) -> None:
    wanted = reference(served.plain)
    server = with_draft(served.ways[way])
    answers = answers_of(server)
    differing = divergences(answers, wanted)
    unexplained = [
        {"prompt": at.prompt, "position": at.position, "said": answers[at.prompt].token_ids[at.position]}
        | {"plain": wanted[at.prompt].meta["output_top_logprobs"][at.position][:2]}
        for at in differing
        if not is_tie(answers[at.prompt], wanted[at.prompt], at.position)
    ]
    counted = report(server)
    RESULTS_SO_FAR.append(
        {
            **{"arm": way, "family": served.family, "backend": served.backend, "num_prompts": len(wanted)},
            **{"identical": len(wanted) - len(differing), "ties": len(differing) - len(unexplained)},
            "unexplained": unexplained,
            **{key: counted[key] for key in ("accept_len", "hit_rate", "steps", "plain_steps")},
            "command": server.command_line.replace(f"{ROOT}/", ""),
        }
    )
    write_results(RESULTS, RESULTS_SO_FAR)  # each time: whoever ends us early has what was found so far
    assert not unexplained
    assert counted["accept_len"] > 1.0
    assert counted["plain_steps"] < counted["steps"] / 2
    if way.startswith("exit"):
        assert counted["hits"]["exit"] > 0
