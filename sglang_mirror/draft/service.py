"""What the draft answers: messages of targets in, messages to targets out, no socket and no clock."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from sglang_mirror.core.worth import least_awaited
from sglang_mirror.draft.backends.base import Backend
from sglang_mirror.draft.greeting import objections, reserve
from sglang_mirror.draft.rollout import RolloutSettings
from sglang_mirror.draft.scheduler import ForwardError, Limits, Scheduler, reason
from sglang_mirror.draft.session import SHORT_TEXT, Session
from sglang_mirror.draft.target import Target
from sglang_mirror.draft.trace import Trace
from sglang_mirror.errors import DraftError
from sglang_mirror.protocol.messages import (
    VERSION,
    Beat,
    Close,
    Commit,
    Committed,
    Failed,
    FromTarget,
    Hello,
    Message,
    Open,
    Ready,
    Refused,
    Signal,
    Stamp,
)

logger = logging.getLogger(__name__)

# A target that ends is found gone at its next beat. One whose host vanishes is not: after so much silence its
# requests are let go, and their memory; it opens them again if it wants. Much later the target itself is; one
# that lives misses its beats and says Hello.
SESSION_TTL_S = 600.0
TARGET_TTL_S = 86400.0

# So many failures in a row, of forwards or where nothing else is held, and the accelerator is lost: a fresh
# process may do better.
MOST_FAILURES = 3

Say = Callable[[bytes, Message], bool]


class DraftService:
    """Serves every target that says Hello.

    Args:
        backend: the model.
        vocabulary: fingerprint of its tokenizer.
        say: sends a message to a target, without waiting; False if the target has gone.
        limits: rows in a forward.
        trace: where forwards are written down.
    """

    def __init__(
        self,
        backend: Backend,
        vocabulary: str,
        say: Say,
        *,
        limits: Limits | None = None,
        trace: Trace | None = None,
    ) -> None:
        self._backend = backend
        self._vocabulary = vocabulary
        self._say = say
        limits = limits or Limits()
        self._streamed_branches, self._prefill_rows = limits.streamed_branches, limits.prefill_rows
        self._scheduler = Scheduler(backend, limits, trace or Trace())
        self._targets: dict[bytes, Target] = {}
        self._failures = 0

    def handle(self, identity: bytes, message: FromTarget, now_s: float) -> None:
        """Take in one message. Of a target that never said Hello, only Hello is answered.

        Raises:
            DraftError: the model's memory fails again and again.
        """
        if isinstance(message, Hello):
            self._hello(identity, message, now_s)
            return
        target = self._targets.get(identity)
        if target is None:
            return
        target.last_heard_s = now_s
        match message:
            case Open():
                self._open(target, message)
            case Commit():
                target.expect(message)
                least = self._least_awaited(target, sum(not each.window_len for each in message.committed))
                for committed in message.committed:
                    self._commit(target, committed, least, waits=message.waits)
            case Signal():
                self._signal(target, message)
            case Close():
                for request in message.requests:
                    target.sessions.pop(request, None)

    def step(self) -> bool:
        """Run one forward and say what it finished; whether there was anything to compute.

        Raises:
            DraftError: the model fails again and again.
        """
        try:
            done = self._scheduler.step(self._targets.values())
        except ForwardError as error:
            self._give_up(error)
            return True
        for target, session, why in done.failed:
            self._no_memory(target, session.stamp, why)
        for target, session in done.worked:
            self._failures = 0
            self._tell(target, session)
        return bool(done.worked or done.failed)

    def beat(self, now_s: float) -> float:
        """Beat to the targets that are due, let go what is long unheard; when the next beat is due."""
        next_s = now_s + 1.0
        for target in list(self._targets.values()):
            silent_s = now_s - target.last_heard_s
            if silent_s > SESSION_TTL_S and target.sessions:
                logger.info("target %s has been silent for %.0f s: its requests go", target.name, silent_s)
                target.sessions.clear()
            there = silent_s <= TARGET_TTL_S
            if there and now_s >= target.next_beat_s:
                there = self._say(target.identity, Beat(len(target.sessions), target.work))
                target.next_beat_s = now_s + target.beat_s
            if not there:
                logger.info("target %s has gone", target.name)
                del self._targets[target.identity]
                continue
            next_s = min(next_s, target.next_beat_s)
        return next_s

    def _give_up(self, error: ForwardError) -> None:
        """A forward failed: which request is to blame is unknown, and the KV of all of them is in doubt."""
        self._count_failure(str(error))
        for target, session in error.work:
            self._fail(target, session.stamp, f"the draft's forward failed: {error}")

    def _count_failure(self, why: str) -> None:
        self._failures += 1
        if self._failures >= MOST_FAILURES:
            raise DraftError(f"{self._backend.name} failed {self._failures} times in a row: {why}")

    def _hello(self, identity: bytes, hello: Hello, now_s: float) -> None:
        settings = RolloutSettings(
            hello.shape, hello.kappa, hello.roots, hello.root_budget, self._streamed_branches
        )
        reasons = objections(hello, self._backend, self._vocabulary) or self._prepare(settings)
        if reasons:
            logger.warning("target %s refused: %s", hello.target, "; ".join(reasons))
            self._targets.pop(identity, None)
            self._say(identity, Refused(VERSION, tuple(reasons)))
            return
        beat_s = hello.beat_ms / 1000
        self._targets[identity] = Target(
            identity=identity,
            name=hello.target,
            settings=settings,
            beat_s=beat_s,
            last_heard_s=now_s,
            next_beat_s=now_s + beat_s,
        )
        logger.info("serving target %s", hello.target)
        max_len = self._backend.max_len - reserve(hello.gamma)
        backend = self._backend
        self._say(
            identity, Ready(VERSION, self._vocabulary, backend.name, os.getpid(), backend.device, max_len)
        )

    def _prepare(self, settings: RolloutSettings) -> list[str]:
        """Before Ready, for it may take seconds. Why so much cannot be had; empty if it can."""
        kappa, budget = settings.kappa, settings.root_budget
        try:
            self._backend.prepare(kappa + 1, max(settings.most_nodes + SHORT_TEXT, self._prefill_rows))
        except RuntimeError as error:
            said = f"kappa, root budget: the target asks for {kappa} and {budget}"
            return [f"{said}, which the draft cannot compute: {reason(error)}"]
        return []

    def _open(self, target: Target, message: Open) -> None:
        held = target.sessions.get(message.stamp.request)
        if held is not None and held.stamp.generation > message.stamp.generation:
            return
        target.sessions.pop(message.stamp.request, None)
        problem = self._text_problem(target, message.stamp.committed_len, message.tokens)
        if not problem and len(message.tokens) != message.stamp.committed_len:
            problem = f"{len(message.tokens)} tokens were sent, the stamp says {message.stamp.committed_len}"
        if problem:
            self._fail(target, message.stamp, problem)
            return
        try:
            cache = self._backend.new_cache(len(message.tokens) + target.settings.most_nodes)
        except RuntimeError as error:
            self._no_memory(target, message.stamp, reason(error))
            return
        target.sessions[message.stamp.request] = Session(
            message.stamp,
            message.tokens,
            awaited=message.window,
            settings=target.settings,
            cache=cache,
            least_awaited=self._least_awaited(target, 1),
        )

    def _least_awaited(self, target: Target, num_windows: int) -> float:
        return least_awaited(target.rate, self._scheduler.awaited_s, max(num_windows, 1))

    def _commit(self, target: Target, committed: Committed, least_awaited: float, *, waits: bool) -> None:
        stamp = committed.stamp
        session = target.sessions.get(stamp.request)
        if session is None or session.stamp.generation < stamp.generation:
            self._fail(target, stamp, "the draft does not hold this request; open it again")
            return
        held = session.stamp
        if held.generation > stamp.generation or held.committed_len >= stamp.committed_len:
            return
        problem = self._text_problem(target, stamp.committed_len, committed.tokens)
        if held.committed_len + len(committed.tokens) != stamp.committed_len:
            problem = (
                f"the draft holds {held.committed_len} tokens, {len(committed.tokens)} more do not make "
                f"{stamp.committed_len}; open it again"
            )
        if problem:
            self._fail(target, stamp, problem)
            return
        try:
            session.commit(committed, target.settings, waits=waits, least_awaited=least_awaited)
        except RuntimeError as error:
            self._no_memory(target, stamp, reason(error))
            return
        self._tell(target, session)

    def _signal(self, target: Target, message: Signal) -> None:
        for said in message.candidates:
            session = target.sessions.get(said.stamp.request)
            if session is not None and session.stamp == said.stamp:
                session.signal(said, self._backend.vocab_size)
                self._tell(target, session)

    def _text_problem(self, target: Target, length: int, tokens: tuple[int, ...]) -> str:
        """Why a text cannot be drafted for; empty if it can."""
        limit = self._backend.max_len - reserve(target.settings.shape.depth)
        if length > limit:
            return f"{length} tokens; the draft {self._backend.name} takes at most {limit}"
        if not tokens:
            return "no tokens"
        strange = next((t for t in tokens if not 0 <= t < self._backend.vocab_size), None)
        if strange is not None:
            return f"token {strange} is outside the draft's vocabulary of {self._backend.vocab_size}"
        return ""

    def _tell(self, target: Target, session: Session) -> None:
        target.count(session.advance())
        for message in session.messages(target.work):
            self._say(target.identity, message)

    def _no_memory(self, target: Target, stamp: Stamp, why: str) -> None:
        """One request's KV does not fit; if nothing else is held, that is not for want of memory."""
        self._fail(target, stamp, f"the draft cannot hold its KV: {why}")
        if not any(each.sessions for each in self._targets.values()):
            self._count_failure(why)

    def _fail(self, target: Target, stamp: Stamp, reason: str) -> None:
        logger.warning("request %d of %s: %s", stamp.request, target.name, reason)
        target.sessions.pop(stamp.request, None)
        self._say(target.identity, Failed(stamp, reason))
