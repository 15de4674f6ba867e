"""What an experiment says of arms that fail, and how much there is to do."""

from __future__ import annotations

import pytest

from sglang_mirror.bench.arms import Arm
from sglang_mirror.bench.experiment import WARM_UP_LAPS, Plan, in_one_line
from sglang_mirror.bench.workload import Question, Workload

TRACEBACK = """the server ended with status 1:
[2026] loading
Traceback (most recent call last):
  File "x.py", line 3, in <module>
ImportError: libcuda.so.1: cannot open shared object file
[2026] Received sigquit from a child process."""
REFUSED = """the server ended with status 2:
[2026] Multiple hooks
mirror cannot start:
  - --mirror-draft-share 25: no Multi-Process Service runs
  - --mirror-kappa 0: must be at least 1
[2026] ValueError: what came of it"""


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (
            TRACEBACK,
            "the server ended with status 1: ImportError: libcuda.so.1: cannot open shared object file",
        ),
        (
            "the server ended with status 3:\nERROR: [Errno 98] error while attempting to bind on address "
            "('127.0.0.1', 1): address already in use\nurllib3.exceptions.ReadTimeoutError: x",
            "the server ended with status 3: error while attempting to bind on address ('127.0.0.1', 1): "
            "address already in use",
        ),
        (
            REFUSED,
            "the server ended with status 2: mirror cannot start: --mirror-draft-share 25: no Multi-Process "
            "Service runs; --mirror-kappa 0: must be at least 1",
        ),
        ("its server did not answer: ReadTimeout()", "its server did not answer: ReadTimeout()"),
        ("ended:\nnothing of note", "ended:"),
    ],
)
def test_in_one_line(failure: str, said: str) -> None:
    assert in_one_line(failure) == said


def test_laps_are_counted_task_by_task() -> None:
    questions = tuple(Question(task, ("?",), is_chat=True) for task in ("qa", "qa", "qa", "rag"))
    plan = Plan((Arm("plain"),), (Workload("w", questions),), concurrencies=(1, 2), repeats=3)
    alone, two_at_once = 2 * WARM_UP_LAPS + 3 * 4, 2 * WARM_UP_LAPS + 3 * (2 + 1)
    assert plan.num_laps == alone + two_at_once
