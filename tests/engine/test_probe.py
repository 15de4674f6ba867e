"""Who answers at a draft's endpoint: a draft, somebody else, or nobody yet."""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sglang_mirror.config import MirrorConfig
from sglang_mirror.core.growth import WindowShape
from sglang_mirror.engine import probe
from sglang_mirror.engine.draft_line import STRANGER, DraftLine
from sglang_mirror.engine.metrics import Counters
from sglang_mirror.protocol.channel import DraftChannel, TargetChannel
from sglang_mirror.protocol.endpoint import make_keys
from sglang_mirror.protocol.liveness import Peer
from sglang_mirror.protocol.messages import Hello
from tests.engine.line import DEADLINE_S, HELLO, READY, ScriptedPeer

SHAPE = WindowShape.chain(2)


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(probe, "hello", lambda *_, **__: HELLO)
    monkeypatch.setattr(probe, "ANSWER_TIMEOUT_S", 2.0)
    make_keys(tmp_path / "keys")
    return tmp_path / "keys"


class Forwarder:
    """Takes connections and, while there is nobody behind it, lets them go, every other one by a reset."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"tcp://127.0.0.1:{self._listening.getsockname()[1]}"
        self._thread = threading.Thread(target=self._refuse)
        self._thread.start()

    def _refuse(self) -> None:
        for count in itertools.count():
            try:
                taken, _ = self._listening.accept()
            except OSError:
                return
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1 - count % 2, 0))
            with taken, contextlib.suppress(ConnectionError):
                taken.recv(100)

    def end(self) -> None:
        """Its place is free from now on."""
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listening.close()


@pytest.fixture
def forwarder() -> Iterator[Forwarder]:
    found = Forwarder()
    yield found
    found.end()


def objections(endpoint: str, curve_dir: Path | None) -> list[str]:
    config = MirrorConfig(draft_endpoint=endpoint, curve_dir=str(curve_dir) if curve_dir else None)
    return probe.endpoint_objections(config, shape=SHAPE, target="t")


def test_a_draft_of_other_keys_is_a_stranger(keys: Path, tmp_path: Path) -> None:
    make_keys(tmp_path / "others")
    with DraftChannel("tcp://127.0.0.1:*", curve_dir=tmp_path / "others") as draft:
        (said,) = objections(draft.endpoint, keys)
    assert said.startswith(f"--mirror-draft-endpoint {draft.endpoint}: what answers")
    assert STRANGER in said


@pytest.mark.usefixtures("keys")
def test_behind_a_forwarder_a_draft_may_come_later(forwarder: Forwarder) -> None:
    assert objections(forwarder.endpoint, None) == []


def test_one_that_comes_later_is_found(forwarder: Forwarder, caplog: pytest.LogCaptureFixture) -> None:
    """However often its place was found empty before, which is said once."""
    with TargetChannel(forwarder.endpoint) as channel:
        line = DraftLine(channel, HELLO, lost_after_s=9.0, counters=Counters())
        deadline = time.monotonic() + DEADLINE_S
        while STRANGER not in caplog.text:
            assert line.greet() is Peer.UNREACHED
            assert time.monotonic() < deadline
            time.sleep(0.02)
        forwarder.end()
        with DraftChannel(forwarder.endpoint) as draft:
            peer = ScriptedPeer(draft)
            while line.peer is not Peer.READY:
                assert time.monotonic() < deadline
                line.greet()
                if (heard := draft.receive(20)) is not None:
                    peer.target = heard[0]
                    peer.say(READY)
                if (said := line.read(20)) is not None:
                    line.heard(said)
    assert line.refusal is None
    assert caplog.text.count(STRANGER) == 1


@pytest.mark.usefixtures("keys")
def test_nobody_is_no_objection(tmp_path: Path) -> None:
    assert objections(f"ipc://{tmp_path}/d", None) == []


@pytest.mark.usefixtures("keys")
def test_a_draft_is_none_and_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "ANSWER_TIMEOUT_S", 60.0)
    endpoint = f"ipc://{tmp_path}/d"
    with DraftChannel(endpoint) as channel, ThreadPoolExecutor(1) as pool:
        peer = ScriptedPeer(channel)
        found = pool.submit(objections, endpoint, None)
        peer.hear(Hello)
        peer.say(READY)
        assert found.result(DEADLINE_S) == []
