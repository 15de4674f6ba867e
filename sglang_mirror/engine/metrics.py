"""What mirror counts, and how it reports it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from sglang_mirror.core.branches import Branch
from sglang_mirror.protocol.messages import Work


def _count(meaning: str) -> Any:
    return field(default=0, metadata={"help": meaning})


def _ms(meaning: str) -> Any:
    return field(default=0.0, metadata={"help": meaning})


@dataclass(slots=True)
class Counters:
    """Counts since the server's start, times in milliseconds; what each is of is its metric's help too."""

    batches: int = _count("verifications, however many requests each had")
    steps: int = _count("verifications, one a request and step")
    plain_steps: int = _count("those without a window, in which the target decoded alone")
    accepted: int = _count("draft tokens accepted")
    committed: int = _count("tokens committed, corrections included")
    hits: dict[str, int] = field(
        default_factory=lambda: {"draft": 0, "exit": 0},
        metadata={"help": "outcomes that had a branch, by whose guess it was"},
    )
    branches: int = _count("branches received in time")
    stale_branches: int = _count("branches that came after their outcome was known")
    waited_ms: float = _ms("time that the target waited for windows")
    busy_ms: float = _ms("time that the draft computed rollouts")
    draft_windows: int = _count("windows and branches that the draft rolled out to their end")
    draft_forwards: int = _count("forwards that these took, one after another")
    verify_ms: float = _ms("time that the target verified, without reading the exit and sending signals")
    exit_ms: float = _ms("time that reading the early exit took, as the host sees it: norm, head, top-k")
    rendezvous_ms: float = _ms("time of sending signals, looking outcomes up and committing them")
    cycles: int = _count("verifications that came right after another, with no prefill between them")
    # What the parts above leave of it is SGLang's own work.
    cycle_ms: float = _ms("time from the beginning of the other's to the beginning of theirs")
    connections: int = _count("times that a draft became ready")
    restarts: int = _count("times that we started the draft process again")

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
