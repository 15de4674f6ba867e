"""A comparison as one page that needs nothing else, and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from sglang_mirror.bench import figures
from sglang_mirror.bench.arm_specs import OWN
from sglang_mirror.bench.provenance import origin
from sglang_mirror.bench.table import cells, interval, number, same_text
from sglang_mirror.bench.text_table import text_table

HEADS = (
    *("arm", "tokens/s", "against plain", "95% interval", "of means", "accepted length"),
    *("hit rate", "by draft", "by exit", "hidden", "same text"),
)


def html(content: dict[str, Any]) -> str:
    """The page: every figure of the JSON, the pictures drawn from them; it asks nothing of a network."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    timeline = content.get("timeline")
    results = content["results"]
    page: str = environment.get_template("report.html.j2").render(
        own=OWN,
        arms=dict.fromkeys(entry["arm"] for entry in results),
        origin=origin(content),
        skipped=content.get("skipped", []),
        timeline=timeline,
        lanes=Markup(figures.lanes(timeline)) if timeline else None,
        heads=HEADS,
        parts=list(_parts(content)),
        outside=content.get("bench_serving", []),
        commands={(entry["arm"], entry["target"]): entry["command"] for entry in results},
    )
    return page


def markdown(content: dict[str, Any]) -> str:
    """The tables of the page."""
    lines = [origin(content), "", intervals(content["results"])]
    for title, entries in cells(content["results"]):
        lines += ["", f"**{title}**", "", text_table(HEADS, map(row, entries))]
    return "\n".join(lines) + "\n"


def intervals(results: Sequence[dict[str, Any]]) -> str:
    """How the intervals were made: by a bootstrap in files of before, which do not say over how many laps."""
    counts = {entry["speedup"].get("num_laps") for entry in results if entry["speedup"]}
    if not counts:
        return ""
    if None in counts:
        return "Intervals: percentile bootstrap over laps, too narrow for few."
    return f"Intervals: Student's t over laps ({', '.join(map(str, sorted(counts)))})."


def row(entry: dict[str, Any]) -> tuple[str, ...]:
    """One arm's figures, as `HEADS` names them."""
    speed, hits = entry["speedup"], entry["hit_rate"] or {}
    ends = interval(speed) if speed else None
    rates = [number(hits.get(source)) for source in ("all", "draft", "exit")]
    return (
        entry["arm"],
        f"{entry['tokens_per_s']['median']:.1f}",
        f"{speed['of_totals']:.2f}x" if speed else "-",
        f"{ends[0]:.2f} to {ends[1]:.2f}" if ends else "-",
        f"{speed['of_means']:.2f}x" if speed else "-",
        f"{entry['accept_len']:.2f}",
        *rates,
        number(entry["hidden_fraction"]),
        same_text(entry),
    )


def _parts(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for title, entries in cells(content["results"]):
        drawn = {"bars": figures.bars, "histogram": figures.histogram, "split": figures.split}
        pictures = {name: Markup(draw(entries)) for name, draw in drawn.items()}
        yield {"title": title, "rows": [row(entry) for entry in entries], **pictures}
