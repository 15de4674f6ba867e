"""From timed runs to the result of an arm, in the JSON form that docs/design.md fixes."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sglang_mirror.bench.client import Completion


@dataclass(frozen=True, slots=True)
class Run:
    """One arm through all prompts once.

    Attributes:
        completions: in the prompts' order.
        seconds: wall time of the whole run.
        before: the server's `mirror` report before it; None for other arms.
        after: and after it.
    """

    completions: tuple[Completion, ...]
    seconds: float
    before: dict[str, Any] | None
    after: dict[str, Any] | None

    @property
    def tokens_per_s(self) -> float:
        return sum(completion.num_tokens for completion in self.completions) / self.seconds

    @property
    def texts(self) -> list[str]:
        return [completion.text for completion in self.completions]

    def counted(self, *path: str) -> float:
        """How much a counter of the server's report grew during this run; 0 for arms without one."""
        before, after = self.before or {}, self.after or {}
        for key in path:
            before, after = before.get(key, 0), after.get(key, 0)
        return float(after or 0) - float(before or 0)  # type: ignore[arg-type]


def spread(values: Sequence[float], low: str = "min", high: str = "max") -> dict[str, float]:
    return {"median": statistics.median(values), low: min(values), high: max(values)}


def result(arm: str, runs: Sequence[Run], plain: Sequence[Run], **facts: Any) -> dict[str, Any]:
    """One entry of `results`: this arm's runs against plain's, repeat by repeat.

    Args:
        arm: its name.
        runs: one a repeat.
        plain: plain decoding's runs of the same repeats.
        facts: further fields: workload, temperature, concurrency, command.
    """
    speeds = [run.tokens_per_s for run in runs]
    ratios = [run.tokens_per_s / reference.tokens_per_s for run, reference in zip(runs, plain, strict=True)]
    pairs = [
        (ours, theirs)
        for run, reference in zip(runs, plain, strict=True)
        for ours, theirs in zip(run.texts, reference.texts, strict=True)
    ]
    return {
        "arm": arm,
        "num_prompts": len(runs[0].completions),
        "tokens_per_s": spread(speeds),
        "speedup": spread(ratios, "low", "high"),
        "text_equal": sum(ours == theirs for ours, theirs in pairs) / len(pairs),
        **_speculation(runs),
        **facts,
    }


def _speculation(runs: Sequence[Run]) -> dict[str, Any]:
    def total(*path: str) -> float:
        return sum(run.counted(*path) for run in runs)

    steps, batches = total("steps"), total("batches")
    if not steps:
        return {"accept_len": 1.0, "hit_rate": None, "hidden_fraction": None, "step_ms": None}
    hits = {source: total("hits", source) / steps for source in ("exit", "draft")}
    waited, busy = total("waited_ms"), total("busy_ms")
    return {
        "accept_len": total("committed") / steps,
        "hit_rate": {"all": sum(hits.values()), **hits},
        "hidden_fraction": max(0.0, 1 - waited / busy) if busy else None,
        "step_ms": {
            "target": total("verify_ms") / batches,
            "draft_exposed": waited / batches,
            "rendezvous": total("rendezvous_ms") / batches,
        },
    }
