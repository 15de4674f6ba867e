"""Continuous batching of rows: what goes into the next forward, over all requests of all targets."""

from __future__ import annotations

import itertools
import time
from collections.abc import Collection, Iterable, Sequence, Set
from dataclasses import dataclass

from sglang_mirror.draft.backends.base import Backend, Segment
from sglang_mirror.draft.pace import GRAIN, Pace
from sglang_mirror.draft.session import Session
from sglang_mirror.draft.target import Target
from sglang_mirror.draft.trace import Trace
from sglang_mirror.draft.tree import Node


@dataclass(frozen=True, slots=True)
class Limits:
    """How much goes into one forward.

    Attributes:
        rows: rows of rollouts.
        rows_while_awaited: rows of other targets' branches while one waits for a window. Its own stand back:
            it verifies nothing yet, and a forward of 1 row takes 0.3 ms where one of 8 rows takes 0.5.
        rows_after_signal: rows of a request's branches once the early exit has said which are likely: little
            time is left then, and fewer rows are sooner computed. None: all of them.
        streamed_branches: whether a streaming draft's guesses are computed along in branches too, not only in
            a window. Right or wrong, each is a row, and where rows cost time the forwards that they save cost
            less.
        prefill_rows: prompt tokens, while there is nothing else to compute; fewer where rows take long.
        shared_prefill_rows: prompt tokens, in a forward with rollouts.
        forwards_between_prefills: while a target waits for a window, forwards without prompt tokens after
            one that had some: no window is delayed by more than one chunk.
    """

    rows: int = 64
    rows_while_awaited: int = 8
    rows_after_signal: int | None = None
    streamed_branches: bool = True
    prefill_rows: int = 128
    shared_prefill_rows: int = 64
    forwards_between_prefills: int = 8


# A forward with prompt tokens takes no longer than so many beats of any target: how long one bears silence it
# does not say, but by default it is ten.
MOST_BEATS = 2
FORGOTTEN = 0.05  # of what earlier forwards that were waited for have taken, with each new one


@dataclass(slots=True)
class Part:
    """One request's part of a forward."""

    target: Target
    session: Session
    segment: Segment
    nodes: list[Node]


@dataclass(slots=True)
class _Demand:
    """The nodes of one request that go into the forward."""

    target: Target
    session: Session
    tips: list[Node]


class ForwardError(Exception):
    """The model failed; the requests whose rows it had are lost."""

    def __init__(self, reason: str, work: list[tuple[Target, Session]]) -> None:
        self.work = work
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class Done:
    """What one forward did.

    Attributes:
        worked: the requests that it had rows of.
        failed: those that there was no memory for, and what was said.
    """

    worked: list[tuple[Target, Session]]
    failed: list[tuple[Target, Session, str]]


def in_turn(asked: Sequence[int], room: int) -> list[int]:
    """How many each gets of what they ask for: they take one in turn while there is room."""
    if sum(asked) <= room:
        return list(asked)
    got = [0] * len(asked)
    while room:
        for place, most in enumerate(asked):
            if room and got[place] < most:
                got[place] += 1
                room -= 1
    return got


def reason(error: Exception) -> str:
    """The first line of what it says."""
    return (str(error).strip() or "no reason given").splitlines()[0]


class Scheduler:
    """Owns the model; runs one forward at a time.

    Args:
        backend: the model.
        limits: rows in a forward.
        trace: where forwards are written down.

    Attributes:
        awaited_s: seconds that a forward took lately which a target waited for; 0 before there was one.
    """

    def __init__(self, backend: Backend, limits: Limits, trace: Trace) -> None:
        self._backend = backend
        self._limits = limits
        self._trace = trace
        self._pace = Pace()
        self.awaited_s = 0.0
        self._forwards_since_prefill = limits.forwards_between_prefills

    def step(self, targets: Collection[Target]) -> Done:
        """Run one forward of what can be computed now.

        Raises:
            ForwardError: the model failed.
        """
        sessions = [(target, session) for target in targets for session in target.sessions.values()]
        waiting = {
            target.identity for target, session in sessions if session.awaited and not session.num_prefill
        }
        demands = self._rollouts(sessions, waiting)
        work = [Part(each.target, each.session, *each.session.rows(each.tips)) for each in demands]
        room = self._room(targets, work)
        chunk = self._prefills(sessions, room, awaited=bool(waiting))
        whole = sum(len(each.segment.tokens) for each in chunk) == room
        fitting, failed = self._reserve([*work, *chunk])
        if fitting:
            took_s = self._forward(fitting, whole_chunk=whole and not failed)
            if waiting and not chunk:
                self._awaited(took_s)
        return Done([(each.target, each.session) for each in fitting], failed)

    def _rollouts(self, sessions: Sequence[tuple[Target, Session]], waiting: Set[bytes]) -> list[_Demand]:
        """Windows that a target waits for, and as many of the most valuable branches as there is room for."""
        limits = self._limits
        urgent, others = list[list[Node]](), list[list[Node]]()
        for target, session in sessions:
            most = limits.rows_after_signal if session.signalled else None
            tips = list(itertools.islice(session.tips(), most))
            num_urgent = session.num_urgent
            urgent.append(tips[:num_urgent])
            others.append([] if target.identity in waiting else tips[num_urgent:])
        room = limits.rows_while_awaited if waiting else limits.rows
        shares = in_turn([len(each) for each in others], room)
        wanted = zip(sessions, urgent, others, shares, strict=True)
        found = [_Demand(*of, [*first, *then[:share]]) for of, first, then, share in wanted]
        return [demand for demand in found if demand.tips]

    def _awaited(self, seconds: float) -> None:
        self.awaited_s += FORGOTTEN * (seconds - self.awaited_s) if self.awaited_s else seconds

    def _room(self, targets: Iterable[Target], rollouts: Sequence[Part]) -> int:
        """Prompt tokens that hold up neither the rollouts of this forward nor the beats behind it.

        Beside rollouts they are what these leave of the rows that the backend computes at once: a second go
        reads all weights again. Where next to nothing is left they take it, for no prompt waits for ever.
        """
        limits, beside = self._limits, sum(len(each.segment.tokens) for each in rollouts)
        limit_ms = min((MOST_BEATS * target.beat_s * 1000 for target in targets), default=0.0)
        rows = self._pace.rows(limit_ms=limit_ms, beside=beside)
        rows = min(rows, limits.shared_prefill_rows if rollouts else limits.prefill_rows)
        left = -beside % self._backend.rows_at_once if self._backend.rows_at_once else 0
        return min(rows, left) if left >= GRAIN else rows

    def _prefills(
        self, sessions: Sequence[tuple[Target, Session]], room: int, *, awaited: bool
    ) -> list[Part]:
        """Prompt tokens, `room` of them if there are so many."""
        prompts = [entry for entry in sessions if entry[1].num_prefill]
        self._forwards_since_prefill += 1
        if not prompts:
            return []
        if awaited and self._forwards_since_prefill <= self._limits.forwards_between_prefills:
            return []
        self._forwards_since_prefill = 0
        work = []
        # The shortest first: it is soon out of the way, and the long one loses little.
        for target, session in sorted(prompts, key=lambda entry: entry[1].num_prefill):
            count = min(session.num_prefill, room)
            if not count:
                break
            room -= count
            segment = session.prefill(count)
            work.append(Part(target, session, segment, session.prefill_targets()))
        return work

    def _reserve(self, work: Iterable[Part]) -> tuple[list[Part], list[tuple[Target, Session, str]]]:
        """Make room for every request's KV: what does not fit fails alone, and not within the forward."""
        fitting, failed = [], []
        for each in work:
            try:
                self._backend.reserve(each.segment)
                fitting.append(each)
            except RuntimeError as error:  # torch.OutOfMemoryError is one
                failed.append((each.target, each.session, reason(error)))
        return fitting, failed

    def _forward(self, work: Sequence[Part], *, whole_chunk: bool) -> float:
        """Compute the rows and take in what is said of them; the seconds that the model took."""
        num_candidates = max(each.target.settings.kappa for each in work) + 1
        start_s = time.monotonic()
        try:
            results = self._backend.forward([each.segment for each in work], num_candidates)
        except (RuntimeError, ValueError, IndexError) as error:
            raise ForwardError(reason(error), [(each.target, each.session) for each in work]) from error
        end_s = time.monotonic()
        num_rows = sum(len(each.segment.tokens) for each in work)
        self._pace.took(num_rows, (end_s - start_s) * 1000, whole_chunk=whole_chunk)
        num_prompt_rows = 0
        for each, said in zip(work, results, strict=True):
            prompt_rows = each.session.num_prompt_rows(each.segment)
            num_prompt_rows += prompt_rows
            share = (len(each.segment.tokens) - prompt_rows) / num_rows
            each.target.busy_ms += share * (end_s - start_s) * 1000
            kept = each.target.settings.kappa + 1
            for node, found in zip(each.nodes, said, strict=True):
                node.candidates = found.next if kept == num_candidates else found.next.without((), kept)
                node.ahead = found.ahead
        self._trace.forward(start_s, end_s, len(work), num_rows - num_prompt_rows, num_prompt_rows)
        return end_s - start_s
