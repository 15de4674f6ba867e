"""`sglang-mirror bench run` as a user runs it: real arms, and one that cannot run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

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
    arms = ("--arms", "plain", "eagle3", "mirror:root_budget=6")
    matrix = ("--workload", questions, "--temperature", "0", "1", "--concurrency", "2")
    sizes = ("--questions", "2", "--tokens", "12", "--repeats", "2", "--enlarge", SHAPE)
    done = bench("run", *arms, *matrix, *sizes, "--json", out)
    assert done.returncode == 1, done.stdout + done.stderr[-4000:]
    assert "eagle3 did not run: no EAGLE3 head is given" in done.stdout
    content = json.loads(out.read_text())
    assert [entry["arm"] for entry in content["skipped"]] == ["eagle3"]
    found = {(e["arm"], e["workload"], e["temperature"]): e for e in content["results"]}
    workloads = ("chats", "chats/multi-turn", "chats/qa")
    assert len(found) == 2 * len(workloads) * 2
    for workload in workloads:
        ours = found["mirror:root_budget=6", workload, 0.0]
        assert ours["text_equal"] == 1.0
        assert ours["accept_len"] >= 1.0
        assert ours["speedup"]["low"] <= ours["speedup"]["of_totals"] <= ours["speedup"]["high"]
    assert found["plain", "chats", 0.0]["accept_len"] == 1.0
    assert found["mirror:root_budget=6", "chats", 0.0]["hit_rate"]["all"] > 0
