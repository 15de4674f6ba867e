"""Who answers at a draft's endpoint: a draft, somebody else, or nobody yet."""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sglang_mirror.config import MirrorConfig
from sglang_mirror.core.growth import WindowShape
from sglang_mirror.engine import probe
from sglang_mirror.engine.draft_line import DraftLine
from sglang_mirror.engine.metrics import Counters
from sglang_mirror.protocol.channel import DraftChannel, TargetChannel
from sglang_mirror.protocol.endpoint import make_keys
from sglang_mirror.protocol.liveness import Peer
from tests.engine.line import HELLO, READY, ScriptedPeer

SHAPE = WindowShape.chain(2)


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(probe, "hello", lambda *_, **__: HELLO)
    monkeypatch.setattr(probe, "ANSWER_TIMEOUT_S", 2.0)
    make_keys(tmp_path / "keys")
    return tmp_path / "keys"


@pytest.fixture
def forwarder() -> Iterator[str]:
    """Takes connections and lets them go, every other one by a reset: what it forwards to is not there."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def forward() -> None:
            with contextlib.suppress(OSError):
                for count in itertools.count():
                    taken, _ = listening.accept()
                    taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", count % 2, 0))
                    with taken, contextlib.suppress(ConnectionError):
                        taken.recv(100)

        thread = threading.Thread(target=forward)
        thread.start()
        yield f"tcp://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


def objections(endpoint: str, curve_dir: Path | None) -> list[str]:
    config = MirrorConfig(draft_endpoint=endpoint, curve_dir=str(curve_dir) if curve_dir else None)
    return probe.endpoint_objections(config, shape=SHAPE, target="t")


def test_a_draft_of_other_keys_is_a_stranger(keys: Path, tmp_path: Path) -> None:
    make_keys(tmp_path / "others")
    with DraftChannel("tcp://127.0.0.1:*", curve_dir=tmp_path / "others") as draft:
        (said,) = objections(draft.endpoint, keys)
    assert said.startswith(f"--mirror-draft-endpoint {draft.endpoint}: what answers")
    assert "is not an sglang-mirror draft with our keys" in said


@pytest.mark.usefixtures("keys")
def test_behind_a_forwarder_a_draft_may_come_later(forwarder: str) -> None:
    assert objections(forwarder, None) == []


def test_one_that_comes_later_is_found(forwarder: str, caplog: pytest.LogCaptureFixture) -> None:
    with TargetChannel(forwarder) as channel:
        line = DraftLine(channel, HELLO, lost_after_s=1.0, counters=Counters())
        for _ in range(20):
            assert line.greet() is Peer.UNREACHED
            time.sleep(0.05)
    assert line.refusal is None
    assert caplog.text.count("is not an sglang-mirror draft") == 1


@pytest.mark.usefixtures("keys")
def test_nobody_is_no_objection_and_a_draft_is_none(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/d"
    assert objections(endpoint, None) == []
    with DraftChannel(endpoint) as channel:
        peer, found = ScriptedPeer(channel), list[list[str]]()
        asking = threading.Thread(target=lambda: found.append(objections(endpoint, None)))
        asking.start()
        peer.hear(type(HELLO))
        peer.say(READY)
        asking.join()
    assert found == [[]]
