"""Sockets between two ends in one process: what arrives, what is dropped, and who may enter."""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import zmq

from sglang_mirror.errors import ProtocolError, SettingsError
from sglang_mirror.protocol.channel import DraftChannel, TargetChannel
from sglang_mirror.protocol.endpoint import (
    DRAFT_KEY,
    TARGET_KEY,
    endpoint_problems,
    make_keys,
    private_ipc_endpoint,
)
from sglang_mirror.protocol.messages import VERSION, Beat, Close, Refused, Work

WAIT_S = 5.0


def until(condition: Callable[[], object]) -> None:
    end_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def converse(draft: DraftChannel, target: TargetChannel) -> None:
    until(lambda: target.send(Close((1,))))
    received = draft.receive(int(WAIT_S * 1000))
    assert received is not None
    identity, message = received
    assert message == Close((1,))
    draft.send(identity, Beat(1, Work(2.0, 3, 4)))
    assert target.receive(int(WAIT_S * 1000)) == Beat(1, Work(2.0, 3, 4))


@pytest.fixture
def endpoint(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/d"


def test_both_ways_over_ipc(endpoint: str) -> None:
    with DraftChannel(endpoint) as draft, TargetChannel(endpoint) as target:
        converse(draft, target)
        assert target.receive() is None
        assert draft.receive() is None


def test_nothing_is_queued_for_a_draft_that_is_not_there(endpoint: str) -> None:
    with TargetChannel(endpoint) as target:
        assert not target.send(Close((1,)))
        with DraftChannel(endpoint) as draft:
            until(lambda: target.send(Close((2,))))
            received = draft.receive(1000)
            assert received is not None
            assert received[1] == Close((2,))


def test_a_restarted_draft_is_found_again(endpoint: str) -> None:
    with TargetChannel(endpoint) as target:
        for _ in range(2):
            with DraftChannel(endpoint) as draft:
                converse(draft, target)
            until(lambda: not target.send(Close(())))


def test_a_target_that_has_gone_is_no_error(endpoint: str) -> None:
    beat = Beat(0, Work(0.0, 0, 0))
    with DraftChannel(endpoint) as draft:
        assert not draft.send(b"nobody", beat)
        with TargetChannel(endpoint) as target:
            until(lambda: target.send(Close(())))
            received = draft.receive(1000)
            assert received is not None
            assert draft.send(received[0], beat)
        until(lambda: not draft.send(received[0], beat))


def test_a_target_that_does_not_read_has_not_gone(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sglang_mirror.protocol.channel.HIGH_WATER_MARK", 2)
    with DraftChannel(endpoint) as draft, TargetChannel(endpoint) as target:
        until(lambda: target.send(Close(())))
        received = draft.receive(1000)
        assert received is not None
        assert all(draft.send(received[0], Beat(0, Work(0.0, 0, 0))) for _ in range(20_000))


def test_garbage_names_its_sender_and_spoils_nothing(endpoint: str) -> None:
    with DraftChannel(endpoint) as draft, TargetChannel(endpoint) as target:
        converse(draft, target)
        target._socket.send(b"\xc1")
        with pytest.raises(ProtocolError, match=r"target [0-9a-f]+: not a message"):
            draft.receive(1000)
        converse(draft, target)


def test_a_target_of_another_version_is_answered(endpoint: str) -> None:
    with DraftChannel(endpoint) as draft, TargetChannel(endpoint) as target:
        converse(draft, target)
        target._socket.send(msgspec.msgpack.encode(["hello", VERSION + 1]))
        with pytest.raises(ProtocolError, match=f"the peer speaks {VERSION + 1}"):
            draft.receive(1000)
        answer = target.receive(1000)
        assert isinstance(answer, Refused)
        assert f"speaks {VERSION + 1}, we speak {VERSION}" in answer.reasons[0]


def test_a_key_that_is_turned_down_is_no_reset(tmp_path: Path) -> None:
    """At any of several attempts: for a forwarder's, one reset among them would do."""
    make_keys(tmp_path / "keys")
    make_keys(tmp_path / "others")
    with (
        DraftChannel("tcp://127.0.0.1:*", curve_dir=tmp_path / "keys") as draft,
        TargetChannel(draft.endpoint, curve_dir=tmp_path / "others") as stranger,
    ):
        found: list[bool] = []
        end_s = time.monotonic() + WAIT_S
        while len(found) < 3:
            assert time.monotonic() < end_s
            time.sleep(0.01)
            found += stranger.failed_handshakes()
        assert not any(found)


def test_keys(tmp_path: Path) -> None:
    keys, others = tmp_path / "keys", tmp_path / "others"
    make_keys(keys)
    make_keys(others)
    assert all(path.stat().st_mode & 0o077 == 0 for path in keys.glob("*.key_secret"))
    with pytest.raises(SettingsError, match=r"exists; remove it"):
        make_keys(keys)
    with DraftChannel("tcp://127.0.0.1:*", curve_dir=keys) as draft:
        with TargetChannel(draft.endpoint, curve_dir=keys) as target:
            converse(draft, target)
        with TargetChannel(draft.endpoint, curve_dir=others) as stranger:
            until(stranger.failed_handshakes)
            assert not stranger.send(Close((1,)))
        with TargetChannel(draft.endpoint) as bare:
            time.sleep(0.1)
            assert draft.receive(200) is None
            assert not bare.send(Close((1,)))


@pytest.mark.parametrize(
    ("endpoint", "keys", "insecure", "said"),
    [
        ("ipc:///tmp/d", False, False, []),
        ("ipc://", False, False, ["names no path"]),
        ("ipc://@d", False, False, ["open to every user"]),
        ("http://x", False, False, ["give ipc://PATH or tcp://HOST:PORT"]),
        ("tcp://host:99", False, True, []),
        ("tcp://host:99", True, False, []),
        ("tcp://host:99", False, False, ["open to everyone"]),
        ("tcp://host", False, True, ["needs HOST:PORT"]),
        ("tcp://host:70000", False, False, ["needs HOST:PORT", "open to everyone"]),
    ],
)
def test_endpoint_problems(
    endpoint: str, keys: bool, insecure: bool, said: list[str], tmp_path: Path
) -> None:
    if keys:
        make_keys(tmp_path / "keys")
    curve_dir = tmp_path / "keys" if keys else None
    problems = endpoint_problems(
        endpoint, side=DRAFT_KEY, curve_dir=curve_dir, insecure_tcp=insecure, insecure_flag="--word"
    )
    assert len(problems) == len(said)
    assert all(part in problem for part, problem in zip(said, problems, strict=True))
    assert all(("or say --word" in problem) == ("everyone" in problem) for problem in problems)


@pytest.mark.parametrize(
    ("side", "read"),
    [(DRAFT_KEY, ["draft.key_secret", "target.key"]), (TARGET_KEY, ["target.key_secret", "draft.key"])],
)
def test_missing_keys_are_named(side: str, read: list[str], tmp_path: Path) -> None:
    def problems() -> list[str]:
        return endpoint_problems(
            "tcp://h:1", side=side, curve_dir=tmp_path, insecure_tcp=False, insecure_flag=""
        )

    assert [Path(problem.split()[3]).name for problem in problems()] == read
    make_keys(tmp_path)
    assert problems() == []
    (tmp_path / read[0]).unlink()
    (problem,) = problems()
    assert f"{tmp_path / read[0]} is missing; `sglang-mirror keys FOLDER` makes" in problem


def test_private_endpoint() -> None:
    endpoint = private_ipc_endpoint()
    folder = Path(endpoint.removeprefix("ipc://")).parent
    assert folder.stat().st_mode & 0o777 == 0o700
    with DraftChannel(endpoint) as draft, TargetChannel(endpoint) as target:
        converse(draft, target)
    for left in folder.iterdir():
        left.unlink()
    folder.rmdir()


def test_what_servers_left_that_were_ended_at_once_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    served, young, left = (private_ipc_endpoint().removeprefix("ipc://") for _ in range(3))
    for path in (young, left):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
            listening.bind(path)
    with DraftChannel(f"ipc://{served}"):
        for path in (served, left):
            os.utime(path, (0, 0))
        folders = {Path(path).parent for path in (served, young, private_ipc_endpoint()[6:])}
        assert set(tmp_path.iterdir()) == folders


def test_an_endpoint_that_cannot_be_bound(tmp_path: Path) -> None:
    with pytest.raises(zmq.ZMQError):
        DraftChannel(f"ipc://{tmp_path}/no/such/folder")


def test_messages_keep_their_order(endpoint: str) -> None:
    with DraftChannel(endpoint) as draft, TargetChannel(endpoint) as target:
        converse(draft, target)
        for number in range(200):
            assert target.send(Close((number,)))
        for number in range(200):
            received = draft.receive(1000)
            assert received is not None
            assert received[1] == Close((number,))
