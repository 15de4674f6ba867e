"""Every way into the server gives plain decoding's text."""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from openai import OpenAI
from prometheus_client.parser import text_string_to_metric_families

from sglang_mirror.bench.client import complete, payload, stream
from sglang_mirror.bench.pair import ROOT
from sglang_mirror.bench.server import START_TIMEOUT_S, Server
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
    wait_for,
)
from tests.e2e.fleet import generate_all as generate_all_

pytestmark = pytest.mark.server

MODEL = "default"
EXAMPLES = ROOT / "examples"


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


def test_prometheus_metrics(mirror_server: Server) -> None:
    """What `/server_info` counts, under the names that the design fixes."""
    generate(mirror_server, prompts(1)[0])
    found = report(mirror_server)
    text = httpx.get(f"{mirror_server.url}/metrics", timeout=DEADLINE_S).text
    samples = {
        (sample.name, sample.labels.get("source", "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("sglang:mirror_")
    }
    assert samples["sglang:mirror_draft_ready", ""] == 1
    for name in ("steps", "accepted", "committed"):
        assert samples[f"sglang:mirror_{name}_total", ""] == found[name]
    for source, hits in found["hits"].items():
        assert samples["sglang:mirror_hits_total", source] == hits
    assert samples["sglang:mirror_verify_seconds_total", ""] == pytest.approx(found["verify_ms"] / 1000)


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


def printed_by(script: Path, *arguments: str) -> str:
    """What a program prints, in a process of its own."""
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def last_line(printed: str) -> Any:
    return json.loads(printed.splitlines()[-1])


def test_offline_engine(fleet: Fleet, plain_server: Server) -> None:
    """By a script that asks for all that an engine can say, and by the example."""
    example = EXAMPLES / "03_offline_engine.py"
    job = {"target": str(fleet.pair.target), "draft": str(fleet.pair.draft), "gamma": GAMMA}
    job |= {"prompts": prompts(3), "num_tokens": 40}
    script = Path(__file__).with_name("offline_engine.py")
    with ThreadPoolExecutor() as pool:
        answers = pool.submit(printed_by, script, json.dumps(job))
        shown = pool.submit(printed_by, example).result()
    assert last_line(answers.result()) == texts(generate_all_(plain_server, prompts(3), 40))
    asked: list[str] = runpy.run_path(str(example))["PROMPTS"]
    for prompt, text in zip(asked, texts(generate_all_(plain_server, asked, 64)), strict=True):
        assert f"{prompt}{text}\n  -- 64 tokens in " in shown


def test_frontend_program(servers: tuple[Server, Server]) -> None:
    script = EXAMPLES / "02_frontend_program.py"
    plain, mirror = both(servers, lambda server: last_line(printed_by(script, server.url)))
    assert plain == mirror
    assert plain["kind"] in ("list", "dict", "str")
    assert all(plain.values())


def test_openai_example(mirror_server: Server) -> None:
    printed = printed_by(EXAMPLES / "01_openai_client.py", mirror_server.url)
    assert last_line(printed)["draft"] == "ready"
    assert len(printed.splitlines()) > 4


def test_remote_draft_example(plain_server: Server) -> None:
    """Over TCP, with keys; told to end, it takes both along."""
    url, bin_folder = "http://127.0.0.1:30000", Path(sys.executable).parent
    environment = {**child_environment(), "PATH": f"{bin_folder}:{os.environ['PATH']}"}
    script = subprocess.Popen(["sh", str(EXAMPLES / "04_remote_draft.sh")], env=environment)

    def is_ready() -> bool:
        assert script.poll() is None
        with contextlib.suppress(httpx.HTTPError):
            found = httpx.get(f"{url}/server_info", timeout=5)
            return found.is_success and found.json()["mirror"]["draft"] == "ready"
        return False

    try:
        wait_for(is_ready, START_TIMEOUT_S)
        found = complete(url, payload(prompts(1)[0], num_tokens=48))
        assert found.text == generate(plain_server, prompts(1)[0]).text
        assert found.meta["spec_accept_length"] > 1
        family = psutil.Process(script.pid).children(recursive=True)
    finally:
        script.send_signal(signal.SIGTERM)
        script.wait(DEADLINE_S)
    _, left = psutil.wait_procs(family, timeout=DEADLINE_S)
    assert not left
