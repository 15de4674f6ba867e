"""Every way into the server gives plain decoding's text."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from sglang_mirror.bench.client import payload, stream
from sglang_mirror.bench.server import Server
from tests.e2e.fleet import (
    DEADLINE_S,
    GAMMA,
    Fleet,
    both,
    child_environment,
    generate,
    prompts,
    report,
    texts,
)
from tests.e2e.fleet import generate_all as generate_all_

pytestmark = pytest.mark.server

MODEL = "default"


def client(server: Server) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=DEADLINE_S, max_retries=0)


def completed(server: Server, *, streamed: bool) -> str:
    answer: Any = client(server).completions.create(
        model=MODEL, prompt=prompts(1)[0], max_tokens=40, temperature=0, stream=streamed
    )
    return "".join(part.choices[0].text for part in answer) if streamed else answer.choices[0].text


def chatted(server: Server, *, streamed: bool) -> str:
    messages: Any = [{"role": "user", "content": "def main():"}]
    answer: Any = client(server).chat.completions.create(
        model=MODEL, messages=messages, max_tokens=40, temperature=0, stream=streamed
    )
    if streamed:
        return "".join(part.choices[0].delta.content or "" for part in answer if part.choices)
    return str(answer.choices[0].message.content)


def test_generate(plain_server: Server, mirror_server: Server) -> None:
    assert texts(generate_all_(mirror_server, prompts(4))) == texts(generate_all_(plain_server, prompts(4)))


def test_generate_streaming(plain_server: Server, mirror_server: Server) -> None:
    body = payload(prompts(1)[0], num_tokens=40)
    pieces = list(stream(mirror_server.url, body))
    assert "".join(pieces) == generate(plain_server, prompts(1)[0], 40).text
    assert len(pieces) > 2


@pytest.mark.parametrize("streamed", [False, True])
def test_openai_completions(plain_server: Server, mirror_server: Server, streamed: bool) -> None:
    wanted = completed(plain_server, streamed=False)
    assert completed(mirror_server, streamed=streamed) == wanted
    assert wanted


@pytest.mark.parametrize("streamed", [False, True])
def test_openai_chat(plain_server: Server, mirror_server: Server, streamed: bool) -> None:
    wanted = chatted(plain_server, streamed=False)
    assert chatted(mirror_server, streamed=streamed) == wanted
    assert wanted


def test_server_info_reports_mirror(mirror_server: Server, fleet: Fleet) -> None:
    generate(mirror_server, prompts(1)[0])
    found = report(mirror_server)
    assert found["draft"] == "ready"
    assert found["draft_model"] == str(fleet.pair.draft)
    assert found["steps"] >= found["batches"] > 0
    assert found["accept_len"] > 1
    assert 0 <= found["hit_rate"]["all"] <= 1
    assert found["restarts"] == 0


def test_plain_server_reports_no_mirror(plain_server: Server) -> None:
    assert "mirror" not in plain_server.info()


def test_spec_fields_of_meta_info(mirror_server: Server) -> None:
    answer = generate(mirror_server, prompts(2)[1], 64)
    meta = answer.meta
    assert meta["spec_verify_ct"] > 0
    assert meta["spec_accept_length"] == pytest.approx(meta["completion_tokens"] / meta["spec_verify_ct"])
    assert 0 <= meta["spec_accept_rate"] <= 1
    assert len(meta["spec_correct_drafts_histogram"]) <= GAMMA + 1
    assert sum(meta["spec_correct_drafts_histogram"]) == meta["spec_verify_ct"]


def printed_by(script: str, argument: str) -> Any:
    """What a program beside this file prints last, in a process of its own."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name(script)), argument],
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_offline_engine(fleet: Fleet, plain_server: Server) -> None:
    answers = texts(generate_all_(plain_server, prompts(3), 40))
    job = {"target": str(fleet.pair.target), "prompts": prompts(3), "num_tokens": 40}
    mirror = {"draft": str(fleet.pair.draft), "gamma": GAMMA}
    jobs = [json.dumps(each) for each in (job | mirror, job)]
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(lambda job: printed_by("offline_engine.py", job), jobs))
    assert found == [answers, answers]


def test_frontend_program(servers: tuple[Server, Server]) -> None:
    plain, mirror = both(servers, lambda server: printed_by("frontend_program.py", server.url))
    assert plain == mirror
    assert plain["kind"] in ("list", "dict", "str")
    assert all(plain.values())
