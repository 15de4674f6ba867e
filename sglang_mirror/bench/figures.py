"""The pictures of a comparison, as SVG with its text kept as text."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from sglang_mirror.bench.table import interval

Results = Sequence[dict[str, Any]]

WIDTH = 9.0  # inches
SHOWN_STEPS = 24
COLOURS = {"draft": "#2f855a", "exit": "#2b6cb0", None: "#c05621"}
NAMES = {"draft": "hit, the draft's root", "exit": "hit, the exit's root", None: "miss"}
FORWARD = "#805ad5"
PARTS = {
    "target": ("target", "#2d3748"),
    "exit": ("early exit", "#2b6cb0"),
    "draft_exposed": ("waiting for the draft", "#c05621"),
    "rendezvous": ("messages", "#718096"),
    "host": ("SGLang's own", "#cbd5e0"),
}
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "mirror",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def bars(results: Results) -> str:
    """Speed against plain decoding, one bar an arm, with its 95% interval if it has one."""
    shown = [entry for entry in results if entry["speedup"]]
    figure, axes = _figure(0.35 * len(shown) + 0.8)
    for place, entry in enumerate(shown):
        speed = entry["speedup"]
        value = speed["of_totals"]
        axes.barh(place, value, color=_arm_colour(entry["arm"]), height=0.6)
        low, high = interval(speed) or (value, value)
        if low < high:
            errors = [[max(value - low, 0)], [max(high - value, 0)]]
            axes.errorbar(value, place, xerr=errors, color="black", capsize=3, linewidth=1)
        axes.text(max(value, high) + 0.05, place, f"{value:.2f}x", va="center")
    axes.set_yticks(range(len(shown)), [entry["arm"] for entry in shown])
    axes.invert_yaxis()
    axes.axvline(1.0, color="#a0aec0", linewidth=1)
    axes.set_xlabel("tokens a second, against plain decoding")
    return _svg(figure)


def histogram(results: Results) -> str:
    """How many draft tokens a verification accepts: share of the steps, one line an arm."""
    figure, axes = _figure(2.4)
    for entry in results:
        counts = entry.get("accepted_histogram")
        if counts:
            shares = [count / sum(counts) for count in counts]
            colour = _arm_colour(entry["arm"])
            axes.plot(range(len(shares)), shares, marker="o", markersize=3, label=entry["arm"], color=colour)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("draft tokens accepted in a step")
    axes.set_ylabel("share of steps")
    if axes.lines:
        axes.legend(frameon=False)
    return _svg(figure)


def split(results: Results) -> str:
    """Where a step's time goes, of the arms that say so."""
    shown = [entry for entry in results if entry["step_ms"]]
    figure, axes = _figure(0.35 * len(shown) + 0.9)
    for place, entry in enumerate(shown):
        left = 0.0
        for part, (_, colour) in PARTS.items():
            length = max(entry["step_ms"].get(part, 0.0), 0.0)
            axes.barh(place, length, left=left, color=colour, height=0.6)
            left += length
        axes.text(left, place, f" {left:.1f} ms", va="center")
    axes.set_yticks(range(len(shown)), [entry["arm"] for entry in shown])
    axes.invert_yaxis()
    axes.set_xlabel("ms a step")
    handles = [Patch(color=colour, label=name) for name, colour in PARTS.values()]
    axes.legend(
        handles=handles, frameon=False, ncols=len(PARTS), loc="lower center", bbox_to_anchor=(0.5, 1.0)
    )
    return _svg(figure)


def lanes(timeline: dict[str, Any]) -> str:
    """Two lanes, target and draft, over the first steps of one request; each step by what its outcome met."""
    steps = timeline["steps"][:SHOWN_STEPS]
    end = steps[-1]["ended_ms"]
    figure, axes = _figure(2.0)
    for step in steps:
        span = (step["began_ms"], step["ended_ms"] - step["began_ms"])
        axes.broken_barh([span], (1.1, 0.8), color=COLOURS[step["source"]], edgecolor="white", linewidth=0.5)
        axes.text(span[0] + span[1] / 2, 1.5, str(step["accepted"]), ha="center", va="center", color="white")
    spans = [
        (each["began_ms"], each["ended_ms"] - each["began_ms"])
        for each in timeline["forwards"]
        if each["ended_ms"] <= end
    ]
    axes.broken_barh(spans, (0.1, 0.8), color=FORWARD, edgecolor="white", linewidth=0.3)
    axes.set_yticks([0.5, 1.5], ["draft", "target"])
    axes.set_xlabel("ms")
    axes.set_xlim(0, end)
    handles = [Patch(color=COLOURS[source], label=NAMES[source]) for source in COLOURS]
    handles.append(Patch(color=FORWARD, label="forward of the draft"))
    axes.legend(handles=handles, frameon=False, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return _svg(figure)


def _figure(height: float) -> tuple[Figure, Any]:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        return figure, figure.subplots()


def _arm_colour(arm: str) -> str:
    """Ours stand out; each kind of arm has the same colour everywhere."""
    kinds = {
        "mirror": "#2f855a",
        "serial": "#68d391",
        "eagle3": "#d69e2e",
        "standalone": "#2b6cb0",
        "ngram": "#90cdf4",
    }
    return kinds.get(arm.partition(":")[0], "#a0aec0")


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    with mpl.rc_context(STYLE):
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]
