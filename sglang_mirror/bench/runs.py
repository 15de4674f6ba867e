"""From timed runs to the result of an arm, in the JSON form that docs/design.md fixes."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sglang_mirror.bench.chat import Answer
from sglang_mirror.bench.stats import Totals, ratio_interval, speed_ratio, spread


@dataclass(frozen=True, slots=True)
class Lap:
    """Some questions, asked of one arm at once.

    Attributes:
        answers: in the questions' order.
        seconds: wall time until the last was answered.
    """

    answers: tuple[Answer, ...]
    seconds: float

    @property
    def num_tokens(self) -> int:
        return sum(answer.num_tokens for answer in self.answers)


@dataclass(frozen=True, slots=True)
class Run:
    """One arm through all questions once.

    Attributes:
        laps: in the questions' order.
        counted: how much each counter of the server's `mirror` report grew; empty for other arms.
    """

    laps: tuple[Lap, ...]
    counted: Counter[str]

    @classmethod
    def joined(cls, runs: Iterable[Run]) -> Run:
        """Runs through several sets of questions as one."""
        found = list(runs)
        counted: Counter[str] = Counter()
        for run in found:
            counted.update(run.counted)
        return cls(tuple(lap for run in found for lap in run.laps), counted)

    @property
    def answers(self) -> list[Answer]:
        return [answer for lap in self.laps for answer in lap.answers]

    @property
    def tokens_per_s(self) -> float:
        return sum(lap.num_tokens for lap in self.laps) / sum(lap.seconds for lap in self.laps)


def counters(report: Mapping[str, Any] | None) -> Counter[str]:
    """The numbers of a server's `mirror` report; those of an object in it as `name.key`."""
    found: Counter[str] = Counter()
    for name, value in (report or {}).items():
        entries = value.items() if isinstance(value, dict) else (("", value),)
        for key, number in entries:
            if isinstance(number, int | float):
                found[f"{name}.{key}" if key else name] = number  # type: ignore[assignment]
    return found


def result(
    arm: str, runs: Sequence[Run], others: Mapping[str, Sequence[Run]], **facts: Any
) -> dict[str, Any]:
    """One entry of `results`: this arm's runs, and its ratios to the other arms', repeat by repeat.

    Args:
        arm: its name.
        runs: one a repeat.
        others: the runs of every arm of the same repeats, `plain` among them if it ran; this one is left out.
        facts: further fields: workload, temperature, concurrency, command.
    """
    plain = others.get("plain")
    ratios = {name: _against(runs, theirs) for name, theirs in others.items() if name != arm}
    return {
        "arm": arm,
        "num_prompts": len(runs[0].answers),
        "num_repeats": len(runs),
        "tokens_per_s": spread([run.tokens_per_s for run in runs]),
        "question_tokens_per_s": _mean_speed(runs),
        "speedup": _against(runs, plain) if plain else None,
        "ratios": ratios,
        "text_equal": _equal_share(runs, plain) if plain else None,
        **_acceptance(runs),
        **_overlap(runs),
        **facts,
    }


def _against(runs: Sequence[Run], theirs: Sequence[Run]) -> dict[str, float | None]:
    """Speed over another arm's: median over the repeats; of the means; of all tokens together.

    `low` and `high` are the interval of the last, over `num_laps` laps; one lap has none.
    """
    repeats = [ours.tokens_per_s / other.tokens_per_s for ours, other in zip(runs, theirs, strict=True)]
    ours_, theirs_ = _totals(runs), _totals(theirs)
    low, high = ratio_interval(ours_, theirs_) or (None, None)
    return {
        "median": statistics.median(repeats),
        "of_totals": speed_ratio(ours_, theirs_),
        "low": low,
        "high": high,
        "num_laps": len(ours_),
        "of_means": _mean_speed(runs) / _mean_speed(theirs),
    }


def _totals(runs: Sequence[Run]) -> Totals:
    """Tokens and seconds of each lap, over all repeats."""
    laps = zip(*(run.laps for run in runs), strict=True)
    return [(sum(lap.num_tokens for lap in same), sum(lap.seconds for lap in same)) for same in laps]


def _mean_speed(runs: Sequence[Run]) -> float:
    """Spec-Bench's figure: tokens a second of each question, and their mean."""
    speeds = [answer.num_tokens / answer.seconds for run in runs for answer in run.answers]
    return sum(speeds) / len(speeds)


def _equal_share(runs: Sequence[Run], plain: Sequence[Run]) -> float:
    pairs = [
        (ours, theirs)
        for run, reference in zip(runs, plain, strict=True)
        for ours, theirs in zip(run.answers, reference.answers, strict=True)
    ]
    return sum(ours.token_ids == theirs.token_ids for ours, theirs in pairs) / len(pairs)


def _acceptance(runs: Sequence[Run]) -> dict[str, Any]:
    """From SGLang's own account of each request, the same for every kind of speculation.

    A request's first token is its prefill's, not a verification's.
    """
    metas = [completion.meta for run in runs for answer in run.answers for completion in answer.completions]
    verified = sum(meta.get("spec_verify_ct") or 0 for meta in metas)
    if not verified:
        return {"accept_len": 1.0, "accepted_histogram": None}
    histogram: Counter[int] = Counter()
    for meta in metas:
        histogram.update(dict(enumerate(meta.get("spec_correct_drafts_histogram") or ())))
    committed = sum(meta["completion_tokens"] - 1 for meta in metas)
    counts = [histogram[number] for number in range(max(histogram, default=-1) + 1)]
    return {"accept_len": committed / verified, "accepted_histogram": counts}


def _overlap(runs: Sequence[Run]) -> dict[str, Any]:
    """Of mirror: where branches hit, and where a step's time goes."""

    def total(name: str) -> float:
        return float(sum(run.counted[name] for run in runs))

    steps, batches, cycles = total("steps"), total("batches"), total("cycles")
    if not steps:
        return dict.fromkeys(("hit_rate", "hidden_fraction", "step_ms", "draft_forwards"))
    hits = {source: total(f"hits.{source}") / steps for source in ("exit", "draft")}
    waited, busy = total("waited_ms"), total("busy_ms")
    parts = {
        "target": total("verify_ms") / batches,
        "exit": total("exit_ms") / batches,
        "draft_exposed": waited / batches,
        "rendezvous": total("rendezvous_ms") / batches,
    }
    return {
        "hit_rate": {"all": sum(hits.values()), **hits},
        "hidden_fraction": max(0.0, 1 - waited / busy) if busy else None,
        "draft_forwards": total("draft_forwards") / max(total("draft_windows"), 1),
        "step_ms": _with_host(parts, total("cycle_ms") / cycles if cycles else sum(parts.values())),
    }


def _with_host(parts: dict[str, float], wall: float) -> dict[str, float]:
    """A step's parts, and what the engine itself does with the rest of its time."""
    return {**parts, "host": wall - sum(parts.values()), "wall": wall}
