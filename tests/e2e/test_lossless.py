"""At temperature 0 every kind of request gets plain text. Chunked prefill and prefix cache are on."""

from __future__ import annotations

import contextlib
import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from transformers import AutoTokenizer

from sglang_mirror.bench.client import complete, complete_all, payload, stream
from sglang_mirror.bench.identity import divergences
from sglang_mirror.bench.server import Server
from tests.e2e.fleet import (
    Fleet,
    both,
    flags,
    generate,
    generate_all,
    mirror_flags,
    prompts,
    report,
    texts,
    wait_for,
    with_draft,
)

pytestmark = pytest.mark.server

Servers = tuple[Server, Server]


def answers(servers: Servers, bodies: list[dict[str, Any]], concurrency: int = 1) -> list[list[str]]:
    """Both servers' texts."""
    return both(servers, lambda server: texts(complete_all(server.url, bodies, concurrency=concurrency)))


def test_several_at_once(servers: Servers) -> None:
    plain, mirror = both(servers, lambda server: generate_all(server, prompts(8), 48, concurrency=4))
    assert divergences(mirror, plain) == []
    assert report(servers[1])["steps"] > report(servers[1])["plain_steps"]


def test_prompts_of_several_chunks(servers: Servers) -> None:
    plain, mirror = both(
        servers, lambda server: generate_all(server, prompts(3, long=True), 24, concurrency=3)
    )
    assert mirror[0].meta["prompt_tokens"] > 128
    assert divergences(mirror, plain) == []


def test_cached_prefixes(servers: Servers) -> None:
    prefix = prompts(1, long=True)[0][:600]
    bodies = [payload(prefix + end, num_tokens=24) for end in ("\n", "\n    if ", "\n")]
    plain, mirror = both(servers, lambda server: complete_all(server.url, bodies))
    assert divergences(mirror, plain) == []
    assert mirror[2].meta["cached_tokens"] > 64


@pytest.mark.parametrize("num_tokens", [1, 2])
def test_hardly_any_tokens(servers: Servers, num_tokens: int) -> None:
    plain, mirror = both(servers, lambda server: generate_all(server, prompts(4), num_tokens, concurrency=2))
    assert divergences(mirror, plain) == []
    assert [answer.num_tokens for answer in mirror] == [num_tokens] * 4
    generate(servers[1], prompts(1)[0], 8)
    assert report(servers[1])["requests"] == 0, "the draft still holds requests that have ended"


def test_to_the_end_of_the_context(servers: Servers, fleet: Fleet) -> None:
    """The last windows reach beyond the positions that the target has."""
    tokenizer = AutoTokenizer.from_pretrained(fleet.pair.target)
    tokens = tokenizer.encode("".join([*prompts(9, long=True), *prompts(60)]))[:2010]
    parameters = {"temperature": 0, "max_new_tokens": 38, "ignore_eos": True}
    body = {"input_ids": tokens, "sampling_params": parameters}
    plain, mirror = both(servers, lambda server: complete(server.url, body))
    assert len(tokens) == 2010
    assert len(mirror.token_ids) > 30
    assert mirror.token_ids == plain.token_ids


def test_stop_strings(servers: Servers) -> None:
    """The stop string may end in the middle of a window, or of a token."""
    whole = generate(servers[0], prompts(2)[1], 64).text
    stops = [whole[20:23], whole[30:32], "\n\n"]
    bodies = [payload(prompts(2)[1], num_tokens=64, stop=[stop]) for stop in stops]
    plain, mirror = answers(servers, bodies)
    assert mirror == plain
    assert any(len(text) < len(whole) for text in mirror)


def test_stop_tokens(servers: Servers) -> None:
    whole = generate(servers[0], prompts(1)[0], 48)
    bodies = [payload(prompts(1)[0], num_tokens=48, stop_token_ids=[token]) for token in whole.token_ids[5:9]]
    plain, mirror = both(servers, lambda server: complete_all(server.url, bodies))
    assert divergences(mirror, plain) == []
    assert [each.meta["finish_reason"] for each in mirror] == [each.meta["finish_reason"] for each in plain]


def test_very_different_lengths(servers: Servers) -> None:
    short, long = prompts(6), prompts(2, long=True)
    lengths = [4, 96, 17, 64, 1, 40, 30, 80]
    bodies = [payload(p, num_tokens=n) for p, n in zip([*short, *long], lengths, strict=True)]
    plain, mirror = answers(servers, bodies, concurrency=8)
    assert mirror == plain


def test_abort_in_the_middle(servers: Servers) -> None:
    """A client that leaves does not disturb the others, and its request ends."""
    plain, mirror = servers
    wanted = texts(generate_all(plain, prompts(4), 64, concurrency=4))
    with ThreadPoolExecutor(1) as pool:
        others = pool.submit(generate_all, mirror, prompts(4), 64, concurrency=4)
        for prompt in prompts(6)[4:]:
            with contextlib.closing(stream(mirror.url, payload(prompt, num_tokens=1500))) as pieces:
                next(pieces)
        assert texts(others.result()) == wanted
    wait_for(lambda: report(mirror)["requests"] == 0)  # that the draft holds
    assert texts(generate_all(mirror, prompts(4), 64, concurrency=4)) == wanted


def test_flush_cache(servers: Servers) -> None:
    plain, mirror = servers
    wait_for(lambda: httpx.post(f"{mirror.url}/flush_cache", timeout=60).status_code == httpx.codes.OK)
    assert generate(mirror, prompts(1)[0]).text == generate(plain, prompts(1)[0]).text


def test_two_samples_of_one_prompt(servers: Servers) -> None:
    body = payload(prompts(1)[0], num_tokens=24, temperature=1.0, n=2)
    found = httpx.post(f"{servers[1].url}/generate", json=body, timeout=120).json()
    assert len(found) == 2
    assert all(answer["meta_info"]["completion_tokens"] > 0 for answer in found)


def test_mixed_temperatures(servers: Servers) -> None:
    """A greedy request among sampling ones is still greedy."""
    plain, mirror = servers
    bodies = [
        payload(prompt, num_tokens=48, temperature=index % 2) for index, prompt in enumerate(prompts(8))
    ]
    found = texts(complete_all(mirror.url, bodies, concurrency=8))
    assert found[::2] == texts(complete_all(plain.url, bodies[::2]))


def test_logprobs(servers: Servers) -> None:
    """Not only the tokens: their reported log-probabilities too."""
    body = payload(prompts(1)[0], num_tokens=32) | {
        "return_logprob": True,
        "top_logprobs_num": 3,
        "logprob_start_len": 0,
    }
    plain, mirror = both(servers, lambda server: complete(server.url, body).meta)
    for key in ("input_token_logprobs", "output_token_logprobs"):
        ours, theirs = mirror[key], plain[key]
        assert [entry[1] for entry in ours] == [entry[1] for entry in theirs]
        assert [entry[0] for entry in ours if entry[0] is not None] == pytest.approx(
            [entry[0] for entry in theirs if entry[0] is not None], abs=1e-3
        )
    tops = [
        [[token for _, token, _ in top] for top in meta["output_top_logprobs"]] for meta in (mirror, plain)
    ]
    assert tops[0] == tops[1]


@pytest.mark.parametrize(
    "constraint",
    [
        {"regex": r"(alpha|beta) = [0-9]{2,6}\n"},
        {
            "json_schema": json.dumps(
                {
                    "type": "object",
                    "properties": {"size": {"type": "integer"}, "on": {"type": "boolean"}},
                    "required": ["size", "on"],
                }
            )
        },
    ],
    ids=["regex", "json"],
)
def test_grammar(servers: Servers, constraint: dict[str, str]) -> None:
    bodies = [payload(prompt, num_tokens=48, **constraint) for prompt in prompts(2)]
    plain, mirror = answers(servers, bodies, concurrency=2)
    assert mirror == plain
    if "regex" in constraint:
        assert all(re.fullmatch(constraint["regex"], text) for text in mirror)


@pytest.mark.parametrize(
    "asked",
    [
        {"logit_bias": {"13": -100.0, "199": 4.0}},
        {"min_new_tokens": 24},
        {"frequency_penalty": 0.8},
        {"presence_penalty": 0.8},
        {"repetition_penalty": 1.2},
    ],
    ids=lambda asked: next(iter(asked)),
)
def test_penalties(servers: Servers, asked: dict[str, Any]) -> None:
    bodies = [payload(prompt, num_tokens=48, **asked) for prompt in prompts(4)]
    plain, mirror = both(servers, lambda server: complete_all(server.url, bodies, concurrency=2))
    assert divergences(mirror, plain) == []


def test_forced_retraction(fleet: Fleet, plain_server: Server) -> None:
    """Requests that SGLang takes back and prefills again, all the time."""
    server = fleet.launch(
        "retraction",
        flags(*mirror_flags(fleet.pair.draft, speculate="always")),
        environment={"SGLANG_TEST_RETRACT": "1", "SGLANG_TEST_RETRACT_INTERVAL": "5"},
    )
    with_draft(server)
    wanted = generate_all(plain_server, prompts(6), 48, concurrency=6)
    found = generate_all(server, prompts(6), 48, concurrency=6)
    assert divergences(found, wanted) == []
    assert sum(answer.meta.get("num_retractions", 0) for answer in found) > 0
    assert report(server)["plain_steps"] < report(server)["steps"] / 2
    assert report(server)["requests"] == 0
    assert fleet.stop("retraction") == []
