"""`sglang-mirror bench run` as a user runs it: real arms, one that cannot run, and servers that fail."""

from __future__ import annotations

import dataclasses
import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from sglang_mirror.bench import server as bench_server
from sglang_mirror.bench.arm_specs import Setup, parse_arm
from sglang_mirror.bench.arms import Cores
from sglang_mirror.bench.client import complete, payload
from sglang_mirror.bench.exact import ExactTarget
from sglang_mirror.bench.experiment import Experiment, Plan
from sglang_mirror.bench.pair import embedded_pair, held_out
from sglang_mirror.bench.workload import HELD_OUT, load_workload
from sglang_mirror.upscale.folder import make_folder
from sglang_mirror.upscale.shape import parse_shape
from tests.e2e.fleet import DEADLINE_S, child_environment

pytestmark = pytest.mark.server

SHAPE = "320x704x9x6x3x64x4200"


def bench(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sglang_mirror.cli", "bench", *map(str, arguments)],
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=3 * DEADLINE_S,
        check=False,
    )


def test_arms_side_by_side(tmp_path: Path) -> None:
    """On an enlarged target; two turns, both temperatures; an arm that lacks something is named."""
    questions = tmp_path / "chats.jsonl"
    rows = [{"turns": ["def f(x):", "def g(y):"], "category": name} for name in ("writing", "qa")]
    questions.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    out = tmp_path / "bench.json"
    arms = ("--arms", "plain", "serial:draft=streaming", "mirror:root_budget=6")
    matrix = ("--workload", questions, "--temperature", "0", "1", "--concurrency", "2")
    sizes = ("--questions", "2", "--tokens", "12", "--repeats", "2", "--enlarge", SHAPE)
    given = ("--draft", embedded_pair().draft)  # a draft that is given has no streams beside it
    done = bench("run", *arms, *matrix, *sizes, *given, "--json", out)
    assert done.returncode == 1, done.stdout + done.stderr[-4000:]
    missing = f"serial:draft=streaming on {SHAPE}"
    assert f"{missing} did not run: no streaming draft is given" in done.stdout
    content = json.loads(out.read_text())
    assert [entry["arm"] for entry in content["skipped"]] == [missing]
    found = {(e["arm"], e["workload"], e["temperature"]): e for e in content["results"]}
    workloads = ("chats", "chats/multi-turn", "chats/qa")
    assert len(found) == 2 * len(workloads) * 2
    for workload in workloads:
        ours = found["mirror:root_budget=6", workload, 0.0]
        assert ours["text_equal"] == 1.0
        assert ours["accept_len"] >= 1.0
        ends = ours["speedup"]["low"], ours["speedup"]["high"]
        if workload == "chats":
            assert ends[0] <= ours["speedup"]["of_totals"] <= ends[1]
        else:  # one question
            assert ends == (None, None)
    assert found["plain", "chats", 0.0]["accept_len"] == 1.0
    assert found["mirror:root_budget=6", "chats", 0.0]["hit_rate"]["all"] > 0


def test_servers_that_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One finds its port in use, one is killed while it is measured: the third's results are all there.

    That one serves an enlarged target, and writes what the small model would.
    """
    small = embedded_pair()
    target = make_folder(small.target, parse_shape(SHAPE), tmp_path / "target")
    setup = Setup(dataclasses.replace(small, target=target), Cores.one_each())
    names = ("plain", "mirror", "serial")
    plan = Plan(
        arms=tuple(parse_arm(name, setup) for name in names),
        workloads=(load_workload(HELD_OUT, 1),),
        temperatures=(0.0, 1.0),
        num_tokens=8,
        repeats=1,
    )
    free_port = bench_server.free_port
    families: list[psutil.Process] = []
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports = iter([free_port(), free_port(), taken.getsockname()[1]])
        monkeypatch.setattr(bench_server, "free_port", lambda: next(ports))
        with Experiment(plan, setup, tmp_path / "logs") as experiment:
            assert list(experiment.servers) == ["plain", "mirror"]
            families += [process for each in experiment.servers.values() for process in each.family()]
            text = held_out(1)[0].text
            answer = complete(experiment.servers["plain"].url, payload(text, num_tokens=8))

            def kill(arm: str) -> None:
                if arm == "mirror":
                    psutil.Process(experiment.servers["mirror"].pid).kill()

            found = list(experiment.results(kill))
    assert [[entry["arm"] for entry in part] for part in found] == [["plain"], ["plain"]]
    assert experiment.skipped["mirror"].startswith("its server ended with status -9")
    assert "in use" in experiment.skipped["serial"]
    for reason in experiment.skipped.values():
        assert "\n" not in reason
    assert not psutil.wait_procs(families, timeout=20)[1]
    exact = ExactTarget(small.target)
    prompt = exact.tokens_of(text)
    logits = exact.next_logits([[*prompt, *answer.token_ids]], len(prompt) - 1)
    assert logits[0].argmax(-1).tolist()[: len(answer.token_ids)] == list(answer.token_ids)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_bench_that_is_ended_leaves_nothing(number: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sglang_mirror.cli", "bench", "run", "--arms", "plain"]
    command += ["--json", str(tmp_path / "bench.json")]
    running = subprocess.Popen(command, env=child_environment(), stderr=subprocess.DEVNULL)
    started: list[psutil.Process] = []
    until = time.monotonic() + DEADLINE_S
    while not started and time.monotonic() < until:
        time.sleep(0.1)
        children = psutil.Process(running.pid).children(recursive=True)
        started = [each for each in children if "sglang.launch_server" in each.cmdline()]
    assert started
    running.send_signal(number)
    running.wait(30)
    assert not psutil.wait_procs(started, timeout=30)[1]
