"""Starting, restarting and ending a draft process, with a stand-in for the process."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from sglang_mirror.draft import launcher
from sglang_mirror.draft.launcher import DraftCommand, DraftProcess, restart_pause_s
from sglang_mirror.errors import DraftError

COMMAND = DraftCommand(model="m", endpoint="ipc:///tmp/d")


def standing_in(monkeypatch: pytest.MonkeyPatch, code: str) -> DraftProcess:
    monkeypatch.setattr(DraftCommand, "arguments", lambda _self, _pid: [sys.executable, "-c", code])
    return DraftProcess(COMMAND)


def wait_until_ended(process: DraftProcess) -> None:
    end_s = time.monotonic() + 20.0
    while process.alive():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def test_arguments() -> None:
    assert COMMAND.arguments(7)[:3] == [sys.executable, "-m", "sglang_mirror.draft"]
    everything = DraftCommand(
        model="m", endpoint="tcp://h:1", device="cuda:1", cpus="0-3", trace="t", insecure_tcp=True
    )
    said = everything.arguments(7)
    for option, value in (("--device", "cuda:1"), ("--cpus", "0-3"), ("--trace", "t"), ("--parent-pid", "7")):
        assert said[said.index(option) + 1] == value
    assert "--insecure-tcp" in said
    assert "--curve-dir" not in said


@pytest.mark.parametrize(("failures", "pause_s"), [(1, 0.2), (2, 0.4), (5, 3.2), (9, 30.0), (2000, 30.0)])
def test_pauses_double_up_to_a_limit(failures: int, pause_s: float) -> None:
    assert restart_pause_s(failures) == pytest.approx(pause_s)


def test_restarts_when_due(monkeypatch: pytest.MonkeyPatch) -> None:
    process = standing_in(monkeypatch, "raise SystemExit(1)")
    process.start(100.0)
    assert not process.is_due(100.0)
    wait_until_ended(process)
    first = process.pid
    assert not process.is_due(101.0)
    assert not process.is_due(101.1)
    assert process.is_due(101.2)
    process.start(101.2)
    assert process.pid != first
    wait_until_ended(process)
    assert not process.is_due(102.0)  # it lived shortly: the pause doubles
    assert not process.is_due(102.3)
    assert process.is_due(102.4)
    process.start(102.4)
    wait_until_ended(process)
    later_s = 102.4 + launcher.HEALTHY_AFTER_S + 1
    assert not process.is_due(later_s)  # it lived long: back to the first pause
    assert process.is_due(later_s + 0.2)
    process.stop(5.0)
    assert not process.alive()


def test_a_start_that_the_system_refuses_is_a_short_life(monkeypatch: pytest.MonkeyPatch) -> None:
    process = DraftProcess(COMMAND)

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise BlockingIOError(11, "no more processes")

    with monkeypatch.context() as patched:
        patched.setattr(launcher.subprocess, "Popen", refuse)
        for now_s, due_s in ((100.0, 100.2), (100.2, 100.6)):
            with pytest.raises(DraftError, match="no more processes"):
                process.start(now_s)
            assert not process.is_due(now_s)
            assert not process.is_due(due_s - 0.05)
            assert process.is_due(due_s + 0.05)
    assert not process.alive()


def test_last_words_and_giving_up(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    process = standing_in(monkeypatch, "import sys; sys.stderr.write('no such model\\n'); sys.exit(2)")
    assert not process.alive()
    assert not process.gave_up()
    process.start()
    wait_until_ended(process)
    assert process.gave_up()
    end_s = time.monotonic() + 5.0
    while not process.last_words() and time.monotonic() < end_s:
        time.sleep(0.01)
    assert process.last_words() == "no such model"
    assert "no such model" in capfd.readouterr().err


def test_all_reasons_of_a_list_are_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "loading\nmirror cannot start:\n  - --rows 0: give 1 or more\n  - --spin-ms -1: give 0 or more\n"
    process = standing_in(monkeypatch, f"import sys; sys.stderr.write({said!r}); sys.exit(2)")
    process.start()
    wait_until_ended(process)
    end_s = time.monotonic() + 5.0
    while "spin" not in process.last_words() and time.monotonic() < end_s:
        time.sleep(0.01)
    assert process.last_words() == "--rows 0: give 1 or more; --spin-ms -1: give 0 or more"


def test_what_does_not_listen_is_ended_by_force(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    code = f"import signal, time, pathlib; signal.signal(15, signal.SIG_IGN); pathlib.Path({str(ready)!r}).touch(); time.sleep(60)"  # noqa: E501
    process = standing_in(monkeypatch, code)
    process.start()
    end_s = time.monotonic() + 20.0
    while not ready.exists() and time.monotonic() < end_s:
        time.sleep(0.01)
    process.stop(0.2)
    assert not process.alive()
    process.stop(0.2)
