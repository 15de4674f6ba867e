"""The supervisor where the system lets no draft start, or one that has served cannot start again."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sglang_mirror.config import MirrorConfig
from sglang_mirror.core.growth import WindowShape
from sglang_mirror.draft import launcher
from sglang_mirror.draft.launcher import DraftCommand
from sglang_mirror.engine import supervisor
from sglang_mirror.engine.draft_client import DraftClient
from sglang_mirror.engine.metrics import Counters
from sglang_mirror.engine.supervisor import DraftSupervisor
from sglang_mirror.errors import DraftError
from sglang_mirror.protocol.liveness import Peer
from tests.engine.line import HELLO, READY

DEADLINE_S = 10.0


@pytest.fixture
def supervised(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], DraftSupervisor]]:
    """Makes a supervisor; it beats every 10 ms."""
    monkeypatch.setattr(supervisor, "hello", lambda *_, **__: HELLO)
    started: list[DraftSupervisor] = []

    def make() -> DraftSupervisor:
        found = DraftSupervisor(
            MirrorConfig(draft_model="m", beat_ms=10, start_timeout_s=0.1),
            shape=WindowShape.chain(2),
            target="t",
            device="cpu",
            threads=1,
            vocab_size=10,
            counters=Counters(),
        )
        started.append(found)
        return found

    yield make
    for each in started:
        each.stop()


def until(condition: Callable[[], Any]) -> None:
    end_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def test_a_start_that_the_system_refuses_is_tried_again(
    supervised: Callable[[], DraftSupervisor], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[float] = []

    def refuse(*_args: object, **_kwargs: object) -> subprocess.Popen[str]:
        tried.append(time.monotonic())
        raise BlockingIOError(11, "no more processes")

    monkeypatch.setattr(launcher.subprocess, "Popen", refuse)
    found = supervised()
    until(lambda: len(tried) == 3)
    assert found._thread.is_alive()
    assert tried[2] - tried[1] > tried[1] - tried[0] > 0.15  # its pause doubles
    found.wait_until_ready()  # and the server serves plainly meanwhile


def test_a_draft_that_always_ends_before_it_serves_is_no_start(
    monkeypatch: pytest.MonkeyPatch, supervised: Callable[[], DraftSupervisor]
) -> None:
    code = "import sys; sys.stderr.write('no weights in m\\n'); sys.exit(1)"
    monkeypatch.setattr(DraftCommand, "arguments", lambda _self, _pid: [sys.executable, "-c", code])
    found = supervised()
    until(lambda: found._process and found._process.num_failures >= supervisor.MOST_EARLY_ENDS)
    until(lambda: found._process and found._process.last_words())
    with pytest.raises(DraftError, match="mirror cannot start: no weights in m"):
        found.wait_until_ready()


@pytest.mark.parametrize("has_served", [False, True])
def test_settings_that_cannot_work(
    supervised: Callable[[], DraftSupervisor],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    has_served: bool,
) -> None:
    """At the first start nothing else would help. Later something may have gone away that comes back."""
    log = tmp_path / "starts"
    code = (
        f"import sys; open({str(log)!r}, 'a').write('x'); sys.stderr.write('no such model\\n'); sys.exit(2)"
    )
    monkeypatch.setattr(DraftCommand, "arguments", lambda _self, _pid: [sys.executable, "-c", code])
    found = supervised()
    if has_served:
        monkeypatch.setattr(DraftClient, "draft", READY)
        until(lambda: log.is_file() and len(log.read_text()) > 1)
        assert found._failure is None
        return
    until(lambda: found._failure)
    with pytest.raises(DraftError, match="mirror cannot start: no such model"):
        found.wait_until_ready()
    assert log.read_text() == "x"


STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: time.sleep(1)"


def test_a_draft_that_hangs_is_started_again_and_may_then_load(
    supervised: Callable[[], DraftSupervisor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not listen to being told to end. The next one has not served yet, so it is no such case."""
    monkeypatch.setattr(DraftCommand, "arguments", lambda _self, _pid: [sys.executable, "-c", STUBBORN])
    monkeypatch.setattr(supervisor, "HUNG_AFTER_S", 0.3)
    monkeypatch.setattr(supervisor, "STOP_TIMEOUT_S", 0.2)
    found = supervised()
    until(lambda: found._process and found._process.alive())
    assert found._process
    first = found._process.pid
    for peer, seconds in ((Peer.UNREACHED, 0.6), (Peer.READY, 0.6)):
        monkeypatch.setattr(DraftClient, "peer", peer)
        time.sleep(seconds)
        assert found._process.pid == first
    monkeypatch.setattr(DraftClient, "peer", Peer.LOST)
    until(lambda: found._counters.restarts)
    second = found._process.pid
    assert second != first
    time.sleep(1.0)
    assert found._process.pid == second
    assert found._counters.restarts == 1


def test_no_error_ends_the_thread_that_looks_after_the_draft(
    supervised: Callable[[], DraftSupervisor], monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks: list[int] = []

    def tick(_self: DraftClient) -> None:
        ticks.append(len(ticks))
        if len(ticks) == 1:
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr(DraftClient, "tick", tick)
    found = supervised()
    until(lambda: len(ticks) > 2)
    assert found._thread.is_alive()
