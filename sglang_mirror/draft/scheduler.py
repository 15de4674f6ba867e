"""Continuous batching of rows: what goes into the next forward, over all requests of all targets."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from sglang_mirror.draft.backends.base import Backend, Segment
from sglang_mirror.draft.session import Session
from sglang_mirror.draft.target import Target
from sglang_mirror.draft.trace import Trace
from sglang_mirror.draft.tree import Node


@dataclass(frozen=True, slots=True)
class Limits:
    """How much goes into one forward.

    Attributes:
        rows: rows of rollouts.
        rows_while_awaited: rows of rollouts while a target waits for a window, that window's excepted.
        prefill_rows: prompt tokens.
        forwards_between_prefills: while a target waits for a window, forwards without prompt tokens after
            one that had some: no window is delayed by more than one chunk.
    """

    rows: int = 64
    rows_while_awaited: int = 8
    prefill_rows: int = 128
    forwards_between_prefills: int = 8


@dataclass(slots=True)
class Work:
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
    tips: list[Node] = field(default_factory=list)


class ForwardError(Exception):
    """The model failed; the requests whose rows it had are lost."""

    def __init__(self, reason: str, work: list[tuple[Target, Session]]) -> None:
        self.work = work
        super().__init__(reason.strip().splitlines()[0] if reason.strip() else "no reason given")


class Scheduler:
    """Owns the model; runs one forward at a time.

    Args:
        backend: the model.
        limits: rows in a forward.
        trace: where forwards are written down.
    """

    def __init__(self, backend: Backend, limits: Limits, trace: Trace) -> None:
        self._backend = backend
        self._limits = limits
        self._trace = trace
        self._forwards_since_prefill = limits.forwards_between_prefills

    def step(self, targets: Iterable[Target]) -> list[tuple[Target, Session]]:
        """Run one forward of what can be computed now.

        Returns:
            the requests that it had rows of; empty if there was nothing to compute.

        Raises:
            ForwardError: the model failed.
        """
        sessions = [(target, session) for target in targets for session in target.sessions.values()]
        awaited = any(session.awaited for _, session in sessions)
        work = [Work(d.target, d.session, *d.session.rows(d.tips)) for d in self._rollouts(sessions, awaited)]
        work += self._prefills(sessions, awaited)
        if work:
            self._forward(work)
        return [(each.target, each.session) for each in work]

    def _rollouts(self, sessions: Sequence[tuple[Target, Session]], awaited: bool) -> Iterable[_Demand]:
        """Waiting windows first, then the most valuable branches of every request."""
        demands: dict[int, _Demand] = {}
        ranked: list[tuple[int, int, Target, Session, Node]] = []
        for order, (target, session) in enumerate(sessions):
            for rank, tip in enumerate(session.tips()):
                # What a target waits for, its first tip while no window is sent, comes before all else.
                urgent = rank == 0 and session.awaited
                ranked.append((-1 if urgent else rank, order, target, session, tip))
        ranked.sort(key=lambda entry: entry[:2])
        num_urgent = sum(entry[0] < 0 for entry in ranked)
        limits = self._limits
        room = max(limits.rows, num_urgent) if not awaited else num_urgent + limits.rows_while_awaited
        for _, order, target, session, tip in ranked[:room]:
            demands.setdefault(order, _Demand(target, session)).tips.append(tip)
        return demands.values()

    def _prefills(self, sessions: Sequence[tuple[Target, Session]], awaited: bool) -> list[Work]:
        waiting = [entry for entry in sessions if entry[1].num_prefill]
        self._forwards_since_prefill += 1
        if not waiting:
            return []
        rolling = awaited and any(s.awaited and not s.num_prefill for _, s in sessions)
        if rolling and self._forwards_since_prefill <= self._limits.forwards_between_prefills:
            return []
        self._forwards_since_prefill = 0
        work, room = [], self._limits.prefill_rows
        # The shortest first: it is soon out of the way, and the long one loses little.
        for target, session in sorted(waiting, key=lambda entry: entry[1].num_prefill):
            count = min(session.num_prefill, room)
            if not count:
                break
            room -= count
            segment = session.prefill(count)
            work.append(Work(target, session, segment, session.prefill_targets()))
        return work

    def _forward(self, work: Sequence[Work]) -> None:
        num_candidates = max(each.target.settings.kappa for each in work) + 1
        start_s = time.monotonic()
        try:
            results = self._backend.forward([each.segment for each in work], num_candidates)
        except (RuntimeError, ValueError, IndexError) as error:
            raise ForwardError(str(error), [(each.target, each.session) for each in work]) from error
        end_s = time.monotonic()
        num_rows = sum(len(each.segment.tokens) for each in work)
        num_prompt_rows = 0
        for each, candidates in zip(work, results, strict=True):
            prompt_rows = each.session.num_prompt_rows(each.segment)
            num_prompt_rows += prompt_rows
            share = (len(each.segment.tokens) - prompt_rows) / num_rows
            each.target.busy_ms += share * (end_s - start_s) * 1000
            for node, found in zip(each.nodes, candidates, strict=True):
                node.candidates = found
        self._trace.forward(start_s, end_s, len(work), num_rows - num_prompt_rows, num_prompt_rows)
