"""A host that vanishes, or the network between two: over TCP nobody says so, and both ends notice."""

from __future__ import annotations

import select
import socket
import threading
import time
from pathlib import Path

import pytest

from sglang_mirror.protocol import channel
from sglang_mirror.protocol.channel import DraftChannel, TargetChannel
from sglang_mirror.protocol.endpoint import make_keys
from sglang_mirror.protocol.messages import Beat, Close, Work
from tests.protocol.test_channel import WAIT_S, until


class Wire:
    """TCP between two ends, until it is cut: then nothing is carried, and nobody is told."""

    def __init__(self, to: str) -> None:
        host, port = to.removeprefix("tcp://").split(":")
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"tcp://127.0.0.1:{self._listening.getsockname()[1]}"
        self._cut = threading.Event()
        self._ends: list[socket.socket] = []
        self._thread = threading.Thread(target=self._carry, args=((host, int(port)),))
        self._thread.start()

    def _carry(self, to: tuple[str, int]) -> None:
        self._listening.settimeout(WAIT_S)
        near, _ = self._listening.accept()
        far = socket.create_connection(to)
        self._ends = [near, far]
        while not self._cut.is_set():
            for end in select.select(self._ends, [], [], 0.02)[0]:
                other = far if end is near else near
                other.sendall(end.recv(1 << 16))

    def cut(self) -> None:
        self._cut.set()
        self._thread.join()

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
        for each in (self._listening, *self._ends):
            each.close()


@pytest.mark.parametrize("secured", [False, True])
def test_a_host_that_vanishes_is_noticed_by_both(
    secured: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "HEARTBEAT_MS", 100)
    monkeypatch.setattr(channel, "SILENCE_MS", 2500)
    curve_dir = tmp_path if secured else None
    make_keys(tmp_path)
    with (
        DraftChannel("tcp://127.0.0.1:*", curve_dir=curve_dir) as draft,
        Wire(draft.endpoint) as wire,
        TargetChannel(wire.endpoint, curve_dir=curve_dir) as target,
    ):
        until(lambda: target.send(Close(())))
        received = draft.receive(1000)
        assert received is not None
        identity = received[0]
        time.sleep(3.0)  # nobody has said anything for longer than a silence may last
        assert target.send(Close((1,)))
        assert draft.receive(1000) == (identity, Close((1,)))
        wire.cut()
        until(lambda: not target.send(Close(())))
        until(lambda: not draft.send(identity, Beat(0, Work(0.0, 0, 0))))
