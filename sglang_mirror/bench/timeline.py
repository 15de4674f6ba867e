"""One request, step by step: when the target verified, when the draft computed, and what hit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sglang_mirror.bench.arm_specs import Setup
from sglang_mirror.bench.arms import Arm, server
from sglang_mirror.bench.chat import Asker
from sglang_mirror.bench.prompts import read_rows
from sglang_mirror.bench.workload import Question
from sglang_mirror.errors import MirrorError


def record(
    arm: Arm, setup: Setup, asker: Asker, question: Question, folder: Path, *, start_timeout_s: float
) -> dict[str, Any]:
    """Ask one question of the arm's server, alone and traced, after two that warm it up.

    Returns:
        `arm`; `steps` with `began_ms`, `ended_ms`, `accepted` and `source` (whose branch the outcome hit:
        draft, exit, or None for a miss); `forwards` of the draft with `began_ms`, `ended_ms` and `rows`.
        Times count from the first step.

    Raises:
        MirrorError: the server does not start, or left no trace.
        httpx.HTTPError: it did not answer.
    """
    target, draft = folder / "timeline-target.jsonl", folder / "timeline-draft.jsonl"
    for path in (target, draft):
        path.unlink(missing_ok=True)
    traced = Arm(arm.name, (*arm.flags, "--mirror-trace", str(target), "--mirror-draft-trace", str(draft)))
    with server(traced, setup.pair, setup.cores, folder / "timeline.log") as started:
        started.wait(start_timeout_s).wait_for_draft()
        for _ in range(3):
            asker.ask(started.url, question)
    steps = [row for _, row in read_rows(target)]
    if not steps:
        raise MirrorError(f"{target}: the server left no trace of its steps")
    last = [step for step in steps if step["rid"] == steps[-1]["rid"]]
    return {"arm": arm.name, **_relative(last, [row for _, row in read_rows(draft)])}


def _relative(steps: list[dict[str, Any]], forwards: list[dict[str, Any]]) -> dict[str, Any]:
    began_s, ended_s = steps[0]["began_s"], steps[-1]["ended_s"]

    def span(first: float, last: float) -> dict[str, float]:
        return {"began_ms": round((first - began_s) * 1000, 3), "ended_ms": round((last - began_s) * 1000, 3)}

    return {
        "steps": [
            {
                **span(step["began_s"], step["ended_s"]),
                "accepted": len(step["committed"]) - 1,
                "source": step["source"],
            }
            for step in steps
        ],
        "forwards": [
            {**span(each["start_s"], each["end_s"]), "rows": each["rollout_rows"] + each["prompt_rows"]}
            for each in forwards
            if began_s <= each["start_s"] and each["end_s"] <= ended_s
        ],
    }
