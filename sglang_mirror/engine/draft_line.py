"""The line to one draft: whether a draft is there, and what it says.

Nothing here raises because of the draft: one that is dead or wrong is found lost or refused.
"""

from __future__ import annotations

import logging
import time

from sglang_mirror.engine.metrics import Counters
from sglang_mirror.errors import ProtocolError
from sglang_mirror.protocol.channel import TargetChannel
from sglang_mirror.protocol.liveness import Liveness, Peer
from sglang_mirror.protocol.messages import (
    Beat,
    Branches,
    FreshWindow,
    FromDraft,
    Hello,
    Message,
    Ready,
    Refused,
    Work,
)

logger = logging.getLogger(__name__)

STRANGER = "what answers at the draft's endpoint is not an sglang-mirror draft, or has other keys"
NO_WORK = Work(0.0, 0, 0)


class DraftLine:
    """Greets a draft until it answers, judges its silence, and sends while it is there.

    Not locked: its owner calls it from one thread at a time, `read` apart.

    Args:
        channel: to the draft.
        hello: who we are and what we want; said again whenever the draft has to be won back.
        lost_after_s: silence after which the draft counts as lost.
        counters: where to count.

    Attributes:
        draft: what the draft that is or was ready has said of itself.
        refusal: why no draft at this line can serve us; None if one may.
        epoch: how many drafts have become ready. What one was told the next has not heard.
    """

    def __init__(
        self, channel: TargetChannel, hello: Hello, *, lost_after_s: float, counters: Counters
    ) -> None:
        self._channel, self._hello, self._counters = channel, hello, counters
        self._liveness = Liveness(timeout_s=lost_after_s)
        self.draft: Ready | None = None
        self.refusal: str | None = None
        self.epoch = 0
        self._work = NO_WORK  # that the draft has told of since it became ready
        self._warned = False

    @property
    def peer(self) -> Peer:
        return self._liveness.state

    def judge(self) -> Peer:
        """What is believed of the draft now that its silence has been judged."""
        return self._liveness.check(time.monotonic())

    def greet(self) -> Peer:
        """As `judge`; says Hello where no draft is there."""
        state = self.judge()
        failed = self._channel.failed_handshakes()  # always: ZeroMQ stands still when nobody takes them
        if state in (Peer.UNREACHED, Peer.LOST):
            self._channel.send(self._hello)
        if state is Peer.UNREACHED and failed and not self._warned:
            self._warned = True
            logger.warning("mirror: %s; asking again until one does", STRANGER)
        return state

    def lost(self) -> None:
        """Its process has ended."""
        self._liveness.lost()

    def refuse(self, reason: str) -> None:
        """No draft at this line will do."""
        self.refusal = reason
        self._liveness.refused()
        logger.error("mirror: the draft cannot serve us, requests decode plainly: %s", reason)

    def send(self, message: Message) -> None:
        """Say it to a draft that is ready; to no other."""
        if self.peer is Peer.READY and not self._channel.send(message):
            logger.warning("mirror: the draft takes no messages; requests decode plainly until it is back")
            self._liveness.lost()

    def read(self, timeout_ms: float) -> FromDraft | None:
        """The next message, waited for at most so many milliseconds; None if there is none."""
        try:
            return self._channel.receive(max(0, round(timeout_ms)))
        except ProtocolError as error:
            self.refuse(str(error))
            return None

    def heard(self, message: FromDraft) -> None:
        """Take in what a message says of the draft itself."""
        self._liveness.heard(time.monotonic())
        match message:
            case FreshWindow() | Branches() | Beat():
                self._counters.add_work(message.work, self._work)
                self._work = message.work
            case Ready():
                self._ready(message)
            case Refused():
                self.refuse("; ".join(message.reasons))

    def _ready(self, message: Ready) -> None:
        if self.peer is Peer.READY:
            return  # the answer to a Hello that we said twice
        self.draft = message
        self.epoch += 1
        self._liveness.ready(time.monotonic())
        self._counters.connections += 1
        self._work = NO_WORK
        logger.info("mirror: draft %s on %s is ready (pid %d)", message.draft, message.device, message.pid)
