"""SGLang's own benchmark client, `sglang.bench_serving`, as a second opinion on the arms' servers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sglang_mirror.bench.server import Server, cpu_environment
from sglang_mirror.bench.workload import Workload
from sglang_mirror.errors import MirrorError

# Of what the client reports, under its own names: tokens a second, and milliseconds.
FIGURES = ("completed", "output_throughput", "mean_ttft_ms", "mean_tpot_ms", "accept_length")
TIMEOUT_S = 900.0


def bench_serving(
    server: Server,
    target: Path,
    workload: Workload,
    *,
    num_tokens: int,
    temperature: float,
    concurrency: int,
    folder: Path,
) -> dict[str, Any]:
    """The client's figures for one server: each question's first turn, as plain text.

    Args:
        server: asked, healthy.
        target: folder of its model, for the tokenizer.
        workload: what is asked.
        num_tokens: new tokens of each; the client does not stop at an end of text.
        temperature: of sampling.
        concurrency: questions at once.
        folder: where its questions and its report lie.

    Returns:
        `FIGURES`; `accept_length` is None where the server does not speculate.

    Raises:
        MirrorError: the client failed; its last line.
    """
    questions, report = folder / "bench_serving-questions.jsonl", folder / "bench_serving.jsonl"
    _write_questions(questions, workload)
    report.unlink(missing_ok=True)
    command = [
        *(sys.executable, "-m", "sglang.bench_serving", "--backend", "sglang", "--base-url", server.url),
        *("--model", str(target), "--dataset-name", "custom", "--dataset-path", str(questions)),
        *("--num-prompts", str(len(workload.questions)), "--sharegpt-output-len", str(num_tokens)),
        *("--temperature", str(temperature), "--max-concurrency", str(concurrency)),
        *("--output-file", str(report), "--disable-tqdm"),
    ]
    _run(command)
    if not report.is_file():
        raise MirrorError("sglang.bench_serving left no report")
    found = json.loads(report.read_text(encoding="utf-8").splitlines()[-1])
    return {name: found.get(name) for name in FIGURES}


def _write_questions(path: Path, workload: Workload) -> None:
    """In the client's own form: a conversation a line, of which it asks the first turn."""
    rows = [
        {"conversations": [{"content": question.turns[0]}, {"content": ""}]}
        for question in workload.questions
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")


def _run(command: Sequence[str]) -> None:
    environment = {**os.environ, **cpu_environment()}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise MirrorError(f"sglang.bench_serving did not end in {TIMEOUT_S:.0f} s") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise MirrorError(f"sglang.bench_serving failed: {''.join(said)}")
