"""The draft's loop: hear, compute one forward, say, and again."""

from __future__ import annotations

import errno
import gc
import logging
import math
import os
import signal
import time
from pathlib import Path
from types import FrameType

import zmq

from sglang_mirror.draft.backends.base import Backend
from sglang_mirror.draft.parent import ParentWatch
from sglang_mirror.draft.scheduler import Limits
from sglang_mirror.draft.service import DraftService
from sglang_mirror.draft.trace import Trace
from sglang_mirror.errors import DraftError, ProtocolError, SettingsError
from sglang_mirror.protocol.channel import DraftChannel
from sglang_mirror.protocol.endpoint import is_served

logger = logging.getLogger(__name__)

# Different complaints about messages that are written down; a target that garbles every message says one.
MOST_COMPLAINTS = 100

# Messages taken in between two forwards: a target that floods us does not keep the others waiting.
MOST_MESSAGES = 256

# So soon, at the latest, an idle draft looks whether its parent lives or it was told to stop.
LONGEST_WAIT_MS = 100

ALLOCATIONS_BETWEEN_COLLECTIONS = 20_000


def bind(endpoint: str, curve_dir: Path | None) -> DraftChannel:
    """Bind the draft's socket.

    Raises:
        SettingsError: it cannot be bound.
        DraftError: another process has it.
    """
    # ZeroMQ would take its place without a word.
    if endpoint.startswith("ipc://") and is_served(Path(endpoint.removeprefix("ipc://"))):
        raise DraftError(f"--endpoint {endpoint}: another process serves it; name a path that is free")
    mask = os.umask(0o077)  # whoever may write to the socket's file may connect
    try:
        return DraftChannel(endpoint, curve_dir=curve_dir)
    except (zmq.ZMQError, OSError) as error:
        said = (
            f"--endpoint {endpoint}: cannot be bound ({error}); name a port that is free, or a path in a "
            "folder that exists"
        )
        if error.errno == errno.EADDRINUSE:
            raise DraftError(said) from error
        raise SettingsError([said]) from error
    finally:
        os.umask(mask)


class DraftServer:
    """Serves targets on one socket, in one thread, until it is told to stop.

    Args:
        channel: bound; closed by `run`.
        backend: the model.
        vocabulary: fingerprint of its tokenizer.
        limits: rows in a forward.
        trace: where forwards are written down.
        parent: whose end is ours too.
        spin_s: for so long after it last had anything to do, an idle draft looks again at once instead of
            sleeping until a message comes: to be woken takes longer than the message does.
    """

    def __init__(
        self,
        channel: DraftChannel,
        backend: Backend,
        vocabulary: str,
        *,
        limits: Limits,
        trace: Trace,
        parent: ParentWatch,
        spin_s: float = 0.0,
    ) -> None:
        self._channel = channel
        self._trace = trace
        self._parent = parent
        self._spin_s = spin_s
        self._service = DraftService(backend, vocabulary, channel.send, limits=limits, trace=trace)
        self._stopping = False
        self._garbled: set[str] = set()

    def stop(self, _signal: int = 0, _frame: FrameType | None = None) -> None:
        """End the loop after the forward that runs."""
        self._stopping = True

    def run(self) -> None:
        """Serve until SIGTERM, SIGINT or the parent's end."""
        signal.signal(signal.SIGTERM, self.stop)
        signal.signal(signal.SIGINT, self.stop)
        # What loading left behind lives as long as we do: a full collection that walks it takes tens of
        # milliseconds, several steps of a target. Nodes of a tree die with the next commit: to collect after
        # every few hundred of them, as is usual, walks those that live for nothing.
        gc.collect()
        gc.freeze()
        gc.set_threshold(ALLOCATIONS_BETWEEN_COLLECTIONS)
        with self._channel, self._trace:
            self._serve()

    def _serve(self) -> None:
        idle, busy_s = True, -math.inf
        while not self._stopping:
            now_s = time.monotonic()
            wait_s = self._service.beat(now_s) - now_s
            if self._parent.gone():
                logger.info("the parent has ended")
                return
            asleep = idle and now_s - busy_s >= self._spin_s
            heard = self._hear(min(int(wait_s * 1000) + 1, LONGEST_WAIT_MS) if asleep else 0)
            if asleep and not heard:
                self._trace.flush()
            idle = not self._service.step()
            if heard or not idle:
                busy_s = time.monotonic()

    def _hear(self, timeout_ms: int) -> bool:
        """Take in what has come; wait for the first at most `timeout_ms`. Whether there was anything."""
        for count in range(MOST_MESSAGES):
            try:
                received = self._channel.receive(0 if count else timeout_ms)
            except ProtocolError as error:
                self._note_garbled(error)
                continue
            if received is None:
                return count > 0
            self._service.handle(*received, time.monotonic())
        return True

    def _note_garbled(self, error: ProtocolError) -> None:
        reason = str(error)
        if reason not in self._garbled and len(self._garbled) < MOST_COMPLAINTS:
            self._garbled.add(reason)
            logger.warning("ignored a message: %s", reason)
