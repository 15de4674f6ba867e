"""The target's side of the line to the draft: which requests it knows, what it has prepared for them.

The scheduler's thread uses it, the supervisor's and a mailbox's; one lock guards all of it, and nobody waits
while holding it. Nothing raises because of the draft: one that is dead, slow or wrong costs a plain step.
"""

from __future__ import annotations

import functools
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence

from sglang_mirror.core.branches import Branch
from sglang_mirror.core.verify import Outcome
from sglang_mirror.engine.draft_line import DraftLine
from sglang_mirror.engine.incoming import checked_window
from sglang_mirror.engine.metrics import Counters
from sglang_mirror.engine.request import MAX_FAILURES, UNHELD, Request, Requests
from sglang_mirror.errors import ProtocolError
from sglang_mirror.protocol.channel import TargetChannel
from sglang_mirror.protocol.liveness import Peer
from sglang_mirror.protocol.messages import (
    Branches,
    Close,
    Commit,
    Committed,
    ExitCandidates,
    Failed,
    FreshWindow,
    FromDraft,
    Hello,
    Open,
    Ready,
    Signal,
)

logger = logging.getLogger(__name__)
POLL_MS = 2  # longest slice of a wait: the supervisor's thread gets its turn in between


class DraftClient:
    """Speaks to one draft process for all requests of one target.

    Args:
        channel: the line.
        hello: who we are and what we want; said again whenever the draft has to be won back.
        vocab_size: the target's token ids are below it.
        lost_after_s: silence after which the draft counts as lost.
        counters: where to count.

    Attributes:
        counters: as given.
        least: log-probability below which a token does not pay for its row, as every Commit says.
        rate: tokens a second, as every Commit says.
        waits: whether the target waits for the windows of so many requests that missed in one step.
        signals: whether the early exit is read in the next step with windows.
    """

    def __init__(
        self,
        channel: TargetChannel,
        hello: Hello,
        *,
        vocab_size: int,
        lost_after_s: float,
        counters: Counters,
    ) -> None:
        self._line = DraftLine(channel, hello, lost_after_s=lost_after_s, counters=counters)
        self._window = functools.partial(checked_window, shape=hello.shape, vocab_size=vocab_size)
        self._lock = threading.RLock()
        self._requests = Requests()
        self.counters = counters
        self.least, self.rate = -math.inf, 0.0
        self.waits: Callable[[int], bool] = bool
        self.signals = True

    @property
    def peer(self) -> Peer:
        """What is believed of the draft."""
        return self._line.peer

    @property
    def draft(self) -> Ready | None:
        """See `DraftLine`."""
        return self._line.draft

    @property
    def refusal(self) -> str | None:
        """See `DraftLine`."""
        return self._line.refusal

    def tick(self) -> Peer:
        """Read what has come, judge silence, say Hello where it is due. The supervisor calls it regularly."""
        with self._lock:
            self._pump()
            return self._line.greet()

    def lost(self) -> None:
        """Its process has ended."""
        with self._lock:
            self._line.lost()

    def open(self, rid: str, tokens: Sequence[int]) -> None:
        """A prompt is being prefilled: let the draft prefill it too, meanwhile."""
        with self._lock:
            request = self._requests.known(rid)
            if not request.given_up and (request.tokens != tokens or request.epoch != self._line.epoch):
                self._open(request, tokens, window=False)

    def committed(self, rid: str, tokens: Sequence[int], *, waits: bool = True) -> Request:
        """The request, after making sure that the draft has heard of exactly these committed tokens.

        Args:
            rid: SGLang's name for it.
            tokens: all of them.
            waits: whether a window is waited for, where the draft had not heard of them.
        """
        with self._lock:
            request = self._requests.known(rid)
            known = len(request.tokens)
            if request.epoch == self._line.epoch and tokens[:known] == request.tokens:
                if known < len(tokens):
                    request.advance(list(tokens[known:]))
                    request.awaited = waits
                    said = Committed(request.stamp, tuple(tokens[known:]), window_len=0)
                    self._say([said], waits=waits, signals=self.signals)
            elif not request.given_up:
                self._open(request, tokens, window=True)
                request.awaited = waits
            return request

    def _open(self, request: Request, tokens: Sequence[int], *, window: bool) -> None:
        request.tokens = list(tokens)
        request.patient = True
        if self.draft is not None and len(tokens) > self.draft.max_len:
            self._give_up(request)  # without asking: it may be a long prompt's every chunk
            return
        request.reopen(self._line.epoch if self.peer is Peer.READY else UNHELD)
        self._line.send(Open(request.stamp, request.name, tuple(tokens), window))

    def _give_up(self, request: Request) -> None:
        if request.epoch == self._line.epoch:  # its prompt's first chunks were sent
            self._line.send(Close((request.number,)))
        request.failures = MAX_FAILURES
        request.reopen(UNHELD)

    @property
    def num_requests(self) -> int:
        return len(self._requests)

    def current(self, rid: str, committed_len: int) -> Request | None:
        """The request, if it has just so many committed tokens and no draft needs to hear of them."""
        request = self._requests.get(rid)
        if request is None or request.given_up:
            return request
        heard = request.epoch == self._line.epoch or self.peer is not Peer.READY
        return request if heard and len(request.tokens) == committed_len else None

    def close(self, rids: Iterable[str]) -> None:
        """These requests are over, or were never decoded."""
        with self._lock:
            gone = self._requests.drop(rids)
            if gone:
                self._line.send(Close(tuple(request.number for request in gone)))

    def collect(self, requests: Sequence[Request], wait_ms: float) -> float:
        """Wait at most `wait_ms` milliseconds until each request that can expect a window has it.

        Returns:
            seconds that it took; 0 if none of them could.
        """
        awaited = [request for request in requests if self._awaits(request)]
        if not awaited:
            return 0.0
        began = time.monotonic()
        deadline = began + wait_ms / 1000
        while awaited:
            left_ms = (deadline - time.monotonic()) * 1000
            if left_ms <= 0:
                for request in awaited:
                    request.patient = False
                break
            self.receive(min(left_ms, POLL_MS))
            awaited = [request for request in awaited if self._awaits(request)]
        seconds = time.monotonic() - began
        self.counters.waited_ms += seconds * 1000
        return seconds

    def awaited(self, request: Request) -> bool | None:
        """Whether its window was asked for. None if its step will tell nothing of windows: there is no draft
        that holds it, or it was waited for in vain before.
        """
        if self._line.judge() is not Peer.READY or request.epoch != self._line.epoch:
            return None
        return request.awaited if request.patient or not request.awaited else None

    def _awaits(self, request: Request) -> bool:
        return request.window is None and bool(self.awaited(request))

    def wait_for_branches(self, requests: Sequence[Request], phase: int, wait_ms: float) -> None:
        """Lockstep: wait until all branches up to `phase` have come for every request with a window."""
        deadline = time.monotonic() + wait_ms / 1000
        while self.peer is Peer.READY and any(
            request.phase < phase for request in requests if request.epoch == self._line.epoch
        ):
            if time.monotonic() > deadline:
                return
            self.receive(POLL_MS)

    def signal(self, candidates: Sequence[ExitCandidates]) -> None:
        """What the target will probably say, half-way through its forward. From any thread."""
        with self._lock:
            self._line.send(Signal(tuple(candidates)))

    def commit(self, steps: Sequence[tuple[Request, Outcome, list[int]]]) -> list[Branch | None]:
        """Commit each request's tokens, look its outcome up and tell the draft; the branches that hit.

        Args:
            steps: request, outcome, and the committed tokens (accepted ones, then the correction).
        """
        with self._lock:
            self._pump()
            hits, said, missed = [], [], []
            for request, outcome, tokens in steps:
                branch = request.table.look_up(outcome)
                request.advance(tokens)
                request.window = branch.window if branch else None
                hits.append(branch)
                if request.epoch == self._line.epoch:
                    window_len = len(branch.window) - 1 if branch else 0
                    said.append(Committed(request.stamp, tuple(tokens), window_len))
                    missed += [] if branch else [request]
            waits = bool(missed) and self.waits(len(missed))
            for request in missed:
                request.awaited = waits
            any_window = waits or len(missed) < len(said)
            self._say(said, waits=waits, signals=self.signals and any_window)
            return hits

    def _say(self, committed: Sequence[Committed], *, waits: bool, signals: bool) -> None:
        if committed:
            self._line.send(Commit(tuple(committed), self.least, self.rate, waits, signals))

    def receive(self, timeout_ms: float) -> None:
        """Handle what has come, waiting for the first message at most `timeout_ms` milliseconds."""
        message = self._line.read(timeout_ms)
        with self._lock:
            if message is not None:
                self._handle(message)
            self._pump()

    def _pump(self) -> None:
        while (message := self._line.read(0)) is not None:
            self._handle(message)

    def _handle(self, message: FromDraft) -> None:
        self._line.heard(message)
        try:
            match message:
                case FreshWindow():
                    self._take_window(message)
                case Branches():
                    self._take_branches(message)
                case Failed():
                    self._take_failure(message)
        except ProtocolError as error:
            self._line.refuse(str(error))

    def _take_window(self, message: FreshWindow) -> None:
        request = self._requests.of(message.stamp)
        if request is None:
            return
        request.patient = True  # even a late one shows that waiting pays
        if message.stamp == request.stamp and request.window is None:
            request.window = self._window(request.tokens[-1], message.tokens, message.parents)

    def _take_branches(self, message: Branches) -> None:
        request = self._requests.of(message.stamp)
        if request is None or message.stamp != request.stamp:
            self.counters.stale_branches += len(message.branches)
            return
        request.phase = max(request.phase, message.phase)
        for rolled in message.branches:
            window = self._window(rolled.token, rolled.tokens, rolled.parents)
            if window is not None:
                request.table.put(message.stamp.committed_len, rolled.node, Branch(window, rolled.source))
        self.counters.branches += len(message.branches)

    def _take_failure(self, message: Failed) -> None:
        request = self._requests.of(message.stamp)
        if request is None or request.epoch != self._line.epoch:
            return  # what was said of it before the draft's word had come fails as well
        request.failures += 1
        request.epoch = UNHELD  # opened again at its next step, unless it was given up
        logger.info("mirror: the draft gave up request %s: %s", request.rid, message.reason)
