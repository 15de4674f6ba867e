"""What a comparison does when one part of it fails: it says so, and goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sglang_mirror.bench import measuring
from sglang_mirror.bench.arms import Arm
from sglang_mirror.bench.experiment import Plan
from sglang_mirror.bench.output import Output, read_results
from sglang_mirror.bench.workload import Question, Workload
from sglang_mirror.errors import MirrorError
from tests.bench.test_arm_specs import SETUP

PLAN = Plan(
    (Arm("plain"), Arm("mirror:kappa=1"), Arm("mirror")),
    (Workload("chats", (Question("chats", ("?",), is_chat=True),)),),
)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arms whose timeline is asked for; each attempt fails."""
    found: list[str] = []

    def fail(arm: Arm, *_: Any, **__: Any) -> None:
        found.append(arm.name)
        raise MirrorError("the server ended with status 1:\nValueError: no room")

    monkeypatch.setattr(measuring, "record", fail)
    monkeypatch.setattr(measuring, "Asker", lambda *_, **__: None)
    return found


def record(running: list[str], tmp_path: Path) -> Output:
    output = Output(tmp_path / "bench.json")
    ran = [(arm, PLAN, SETUP) for arm in PLAN.arms if arm.name in running]
    measuring._record(ran, output, tmp_path)
    return output


def test_a_timeline_is_of_an_arm_that_ran(asked: list[str], tmp_path: Path) -> None:
    """And what goes wrong with it is named, in the file too."""
    output = record(["plain", "mirror"], tmp_path)
    assert asked == ["mirror"]
    reason = "the server ended with status 1: ValueError: no room"
    assert output.skipped == {"the timeline of mirror": reason}
    [written] = read_results(tmp_path / "bench.json")["skipped"]
    assert written == {"arm": "the timeline of mirror", "reason": reason}


def test_without_mirror_there_is_none(asked: list[str], tmp_path: Path) -> None:
    assert record(["plain"], tmp_path).skipped == {}
    assert asked == []
