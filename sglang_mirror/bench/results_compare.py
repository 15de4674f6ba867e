"""The results page's sections on arms side by side: comparisons, and the grid."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sglang_mirror.bench.provenance import origin
from sglang_mirror.bench.report import markdown
from sglang_mirror.bench.table import cells, number, ratio_text
from sglang_mirror.bench.text_table import text_table

AGAINST = tuple(
    name + cores for name in ("plain", "standalone", "eagle3", "serial") for cores in ("", ":cores=all")
)


def comparison(content: dict[str, Any]) -> str:
    """Every table of a comparison, and mirror against each other arm."""
    arms = {entry["arm"] for entry in content["results"]}
    others = [name for name in AGAINST if name in arms]

    def rows() -> Iterator[list[str]]:
        for title, entries in cells(content["results"]):
            for ours in entries:
                if ours["arm"].startswith("mirror"):
                    yield [title, ours["arm"], *(_against(ours, name, entries) for name in others)]

    head = ["", "arm", *(f"against {name}" for name in others)]
    skipped = [f"* {each['arm']} did not run: {each['reason']}" for each in content["skipped"]]
    said = (
        "Mirror against each, all questions together; `by plain`: in another group, each against its plain:"
    )
    return "\n".join([markdown(content), *skipped, "", said, "", text_table(head, rows())])


def _against(ours: dict[str, Any], name: str, entries: list[dict[str, Any]]) -> str:
    """A ratio to an arm of the same group; to one of another by what both are against plain decoding."""
    if name in ours["ratios"]:
        return ratio_text(ours["ratios"][name])
    other = next((entry for entry in entries if entry["arm"] == name), None)
    if not (other and other["speedup"] and ours["speedup"]):
        return "-"
    return f"{ours['speedup']['of_totals'] / other['speedup']['of_totals']:.2f} by plain"


def overall(content: dict[str, Any]) -> str:
    """A comparison without the tables of single tasks."""
    return comparison(_only(content, tasks=False))


def by_task(content: dict[str, Any]) -> str:
    """The tables of single tasks."""
    return comparison(_only(content, tasks=True))


def _only(content: dict[str, Any], *, tasks: bool) -> dict[str, Any]:
    kept = [entry for entry in content["results"] if ("/" in entry["workload"]) == tasks]
    return {**content, "results": kept}


def tuning(content: dict[str, Any]) -> str:
    """Arms over a grid, each against the arm that was beside all of them."""
    reference = content["results"][0]["arm"]

    def rows() -> Iterator[list[str]]:
        for result in content["results"]:
            against = ratio_text(result["ratios"].get(reference))
            speed = f"{result['tokens_per_s']['median']:.1f}"
            yield [result["target"], result["arm"], speed, against, number(result["accept_len"])]

    head = ["target", "arm", "tokens/s", f"against {reference}", "accepted length"]
    return "\n".join([origin(content) + "\n", text_table(head, rows())])
