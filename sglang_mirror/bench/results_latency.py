"""The results page's section on the latency law."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sglang_mirror.bench.provenance import origin
from sglang_mirror.bench.table import cells
from sglang_mirror.bench.text_table import text_table
from sglang_mirror.core.latency import Parts, step_ms

BOUND = 0.1  # how far off a prediction may be, as a share of the step

SAID = """The law (`core/latency.py`) makes a step of mirror from its parts. Two readings differ in
the target's forward.

* **From parts measured apart: {alone}.** The target's forward, a fresh rollout and the engine's own time
  are the serial arm's, whose draft waits while the target computes. Its exit, its rendezvous and its hit
  rate are taken from the arm that is predicted.
* **With the forward as the arm itself had it, beside a busy draft: {beside}.** The forward is most of a
  step, so this reading predicts little more than what misses cost.

Times are milliseconds. A difference is the prediction's from the step that was measured."""


@dataclass(frozen=True, slots=True)
class Predicted:
    """A step of mirror in one cell, times in milliseconds.

    Attributes:
        title: of the cell.
        arm: its name.
        parts: what the law takes, the forward as it is in the serial arm.
        beside: the forward as it is in the arm itself.
        hit_rate: of the arm itself.
        measured: its step.
    """

    title: str
    arm: str
    parts: Parts
    beside: float
    hit_rate: float
    measured: float

    @property
    def alone_ms(self) -> float:
        return step_ms(self.parts, hit_rate=self.hit_rate)

    @property
    def beside_ms(self) -> float:
        parts = dataclasses.replace(self.parts, before_exit=self.beside)
        return step_ms(parts, hit_rate=self.hit_rate)

    def off(self, value: float) -> float:
        """A prediction's difference, as a share of the step."""
        return value / self.measured - 1


def predictions(content: dict[str, Any]) -> Iterator[Predicted]:
    """Every arm of mirror, one request at a time, beside a serial arm. A hit is never waited for."""
    for title, entries in cells(content["results"]):
        serial = next((each["step_ms"] for each in entries if each["arm"].startswith("serial")), None)
        for entry in entries:
            if serial and entry["arm"].startswith("mirror") and entry["concurrency"] == 1:
                step = entry["step_ms"]
                parts = Parts(
                    before_exit=serial["target"],
                    exit=step["exit"],
                    after_exit=0.0,
                    rollout=0.0,
                    rendezvous=step["rendezvous"],
                    fresh=serial["draft_exposed"],
                    host=serial["host"],
                )
                yield Predicted(
                    title, entry["arm"], parts, step["target"], entry["hit_rate"]["all"], step["wall"]
                )


def near(difference: float) -> bool:
    """Whether a prediction is near enough."""
    return abs(difference) <= BOUND


def within(differences: Sequence[float]) -> str:
    """How many cells are near enough, and the farthest."""
    count = sum(map(near, differences))
    most = max(map(abs, differences))
    return f"{count} of {len(differences)} cells within {BOUND:.0%}, at most {most:.1%} off"


def latency(content: dict[str, Any]) -> str:
    """What the latency law makes of a step's parts, and what was measured."""
    found = list(predictions(content))

    def row(each: Predicted) -> list[str]:
        parts, alone, beside = each.parts, each.alone_ms, each.beside_ms
        figures = (parts.before_exit, parts.fresh, parts.host, parts.exit, parts.rendezvous, each.hit_rate)
        return [
            *(each.title, each.arm, *(f"{value:.2f}" for value in figures)),
            *(f"{each.measured:.2f}", f"{alone:.2f}", f"{each.off(alone):+.1%}"),
            *(f"{each.beside:.2f}", f"{beside:.2f}", f"{each.off(beside):+.1%}"),
        ]

    head = ["", "arm", "target alone", "fresh rollout", "engine", "exit", "rendezvous", "hit rate"]
    head += [
        "measured",
        "predicted",
        "difference",
        "target beside the draft",
        "predicted with it",
        "difference",
    ]
    said = SAID.format(
        alone=within([each.off(each.alone_ms) for each in found]),
        beside=within([each.off(each.beside_ms) for each in found]),
    )
    return "\n".join([origin(content), "", said, "", text_table(head, map(row, found))])
