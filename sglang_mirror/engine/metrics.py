"""What mirror counts, and how it reports it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from sglang_mirror.core.branches import Branch
from sglang_mirror.protocol.messages import Work


@dataclass(slots=True)
class Counters:
    """Counts since the server's start. Times in milliseconds.

    Attributes:
        batches: verifications, however many requests each had.
        steps: verifications, one a request and step.
        plain_steps: those without a window, in which the target decoded alone.
        accepted: draft tokens accepted.
        committed: tokens committed, corrections included.
        hits: outcomes that had a branch, by whose guess it was.
        branches: branches received in time.
        stale_branches: branches that came after their outcome was known.
        waited_ms: how long the target waited for windows.
        busy_ms: how long the draft computed rollouts.
        draft_windows: windows and branches that the draft rolled out to their end.
        draft_forwards: forwards that these took, one after another.
        verify_ms: how long the target verified, without the two that follow.
        exit_ms: how long reading the early exit took: norm, head and top-k, as the host sees it.
        rendezvous_ms: how long sending signals, looking outcomes up and committing them took.
        cycles: verifications that came right after another, with no prefill between them.
        cycle_ms: from the beginning of the other's to the beginning of theirs; what the parts above leave of
            it is SGLang's own work.
        connections: times a draft became ready.
        restarts: times we started the draft process again.
    """

    batches: int = 0
    steps: int = 0
    plain_steps: int = 0
    accepted: int = 0
    committed: int = 0
    hits: dict[str, int] = field(default_factory=lambda: {"draft": 0, "exit": 0})
    branches: int = 0
    stale_branches: int = 0
    waited_ms: float = 0.0
    busy_ms: float = 0.0
    draft_windows: int = 0
    draft_forwards: int = 0
    verify_ms: float = 0.0
    exit_ms: float = 0.0
    rendezvous_ms: float = 0.0
    cycles: int = 0
    cycle_ms: float = 0.0
    connections: int = 0
    restarts: int = 0

    def add_work(self, said: Work, before: Work) -> None:
        """What the draft says that it has done since it became ready, and what it had said `before`."""
        self.busy_ms += said.busy_ms - before.busy_ms
        self.draft_windows += said.windows - before.windows
        self.draft_forwards += said.forwards - before.forwards

    def count_step(self, *, num_committed: int, with_window: bool, hit: Branch | None) -> None:
        self.steps += 1
        self.plain_steps += not with_window
        self.accepted += num_committed - 1
        self.committed += num_committed
        if hit is not None:
            self.hits[hit.source] += 1

    def report(self) -> dict[str, Any]:
        """Counts and the ratios made of them; a ratio of nothing is 0."""
        hits = self.hits["draft"] + self.hits["exit"]
        return {
            **asdict(self),
            "accept_len": _ratio(self.committed, self.steps),
            "hit_rate": {
                "all": _ratio(hits, self.steps),
                **{source: _ratio(count, self.steps) for source, count in self.hits.items()},
            },
            # Rollout time that nobody waited for ran under the target.
            "hidden_fraction": max(0.0, 1.0 - _ratio(self.waited_ms, self.busy_ms)) if self.busy_ms else 0.0,
        }


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
