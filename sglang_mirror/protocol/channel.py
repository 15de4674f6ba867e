"""The sockets: DEALER on the target's side, ROUTER on the draft's. Neither ever blocks without a deadline."""

from __future__ import annotations

import errno
import functools
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import zmq
from zmq.auth.thread import ThreadAuthenticator
from zmq.utils.monitor import parse_monitor_message

from sglang_mirror.errors import OtherVersionError, ProtocolError
from sglang_mirror.protocol.codec import MAX_MESSAGE_BYTES, draft_codec, target_codec
from sglang_mirror.protocol.endpoint import secure_draft, secure_target
from sglang_mirror.protocol.messages import VERSION, FromDraft, FromTarget, Message, Refused

T = TypeVar("T")

# Messages queued for a peer that does not read: a request's step takes a few, so hundreds of steps.
HIGH_WATER_MARK = 4096
# ZeroMQ's own default: a draft that is stopped or swapped out must not be taken for a stranger.
HANDSHAKE_MS = 30_000
# Over a network: how often ZeroMQ asks whether the peer is there, and the silence after which the connection
# is made anew. A host that loses its power says no goodbye, and TCP itself would wait a quarter of an hour.
# ZeroMQ's own threads ask and answer, also while a draft computes.
HEARTBEAT_MS, SILENCE_MS = 1000, 5000


class _Channel:
    """One socket in a context of its own, closed once and without lingering."""

    def __init__(self, socket_type: int, endpoint: str) -> None:
        self._context: zmq.Context[Any] = zmq.Context()
        self._socket = self._context.socket(socket_type)
        self._socket.linger = 0
        self._socket.sndhwm = self._socket.rcvhwm = HIGH_WATER_MARK
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        if endpoint.startswith("tcp://"):
            self._socket.heartbeat_ivl, self._socket.heartbeat_timeout = HEARTBEAT_MS, SILENCE_MS

    def close(self) -> None:
        self._context.destroy(linger=0)

    def _read(self, receive: Callable[[int], T], timeout_ms: int) -> T | None:
        """What `receive` gives, or None after `timeout_ms` milliseconds; not to wait spares the poll."""
        if timeout_ms and not self._socket.poll(timeout_ms):
            return None
        try:
            return receive(zmq.NOBLOCK)
        except zmq.Again:
            return None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class TargetChannel(_Channel):
    """The target's end. Any thread may use it: a lock guards the socket, and no call holds it for long.

    Args:
        endpoint: where the draft process is bound.
        curve_dir: folder with CURVE keys, for `tcp://`.
        handshake_ms: how long what answers may take to prove that it speaks ZeroMQ.
    """

    def __init__(
        self, endpoint: str, *, curve_dir: Path | None = None, handshake_ms: int = HANDSHAKE_MS
    ) -> None:
        super().__init__(zmq.DEALER, endpoint)
        self._codec = target_codec()
        self._lock = threading.Lock()
        # Nothing is queued for a draft that is not there: a restarted one must not meet old requests.
        self._socket.immediate = True
        self._socket.handshake_ivl = handshake_ms
        if curve_dir is not None:
            secure_target(self._socket, curve_dir)
        self._failures = self._socket.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
            | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
            | zmq.EVENT_HANDSHAKE_FAILED_AUTH
        )
        self._socket.connect(endpoint)

    def send(self, message: Message) -> bool:
        """Send without waiting; False if no draft is connected or it does not read."""
        data = self._codec.encode(message)
        with self._lock:
            try:
                self._socket.send(data, zmq.NOBLOCK)
            except zmq.Again:
                return False
        return True

    def receive(self, timeout_ms: int = 0) -> FromDraft | None:
        """The next message, or None after `timeout_ms` milliseconds.

        Raises:
            ProtocolError: what came is not a message of ours.
        """
        with self._lock:
            data = self._read(self._socket.recv, timeout_ms)
        if data is None:
            return None
        message: FromDraft = self._codec.decode(data)
        return message

    def failed_handshakes(self) -> list[bool]:
        """Of each that failed since the last call whether the connection was reset.

        So ends one to a forwarder with nobody behind it, if not always. Who does not speak ZeroMQ, or turns
        our key down, ends it otherwise.
        """
        with self._lock:
            read = functools.partial(self._read, self._failures.recv_multipart, 0)
            failures = [parse_monitor_message(failure) for failure in iter(read, None)]
        return [failure["value"] == errno.ECONNRESET for failure in failures]


class DraftChannel(_Channel):
    """The draft's end: several targets may connect. One thread owns it.

    Args:
        endpoint: where to bind; `tcp://HOST:*` takes a free port, see `endpoint`.
        curve_dir: folder with CURVE keys; only targets with one of its public keys may enter.

    Raises:
        zmq.ZMQError: the endpoint cannot be bound.
    """

    def __init__(self, endpoint: str, *, curve_dir: Path | None = None) -> None:
        super().__init__(zmq.ROUTER, endpoint)
        self._codec = draft_codec()
        self._socket.router_mandatory = True  # it says when a target has gone
        self._authenticator: ThreadAuthenticator | None = None
        if curve_dir is not None:
            self._authenticator = ThreadAuthenticator(self._context)
            self._authenticator.start()
            self._authenticator.configure_curve(domain="*", location=curve_dir)
            secure_draft(self._socket, curve_dir)
        self._socket.bind(endpoint)
        self.endpoint: str = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def close(self) -> None:
        if self._authenticator is not None:
            self._authenticator.stop()
        super().close()

    def send(self, target: bytes, message: Message) -> bool:
        """Send to one target; dropped if it does not read. False if it has gone."""
        try:
            self._socket.send_multipart((target, self._codec.encode(message)), zmq.NOBLOCK)
        except zmq.Again:
            return True
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            return False
        return True

    def receive(self, timeout_ms: int = 0) -> tuple[bytes, FromTarget] | None:
        """The next message and the target that sent it, or None after `timeout_ms` milliseconds.

        Raises:
            ProtocolError: what came is not a message of ours.
        """
        frames = self._read(self._socket.recv_multipart, timeout_ms)
        if frames is None:
            return None
        target, data = frames[:2]
        try:
            return target, self._codec.decode(data)
        except ProtocolError as error:
            if isinstance(error, OtherVersionError):  # it waits for an answer, and can read this one
                self.send(target, Refused(VERSION, (str(error),)))
            raise ProtocolError(f"target {target.hex()}: {error}") from error
