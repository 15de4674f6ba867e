"""Results as a table for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sglang_mirror.bench.arm_specs import OWN
from sglang_mirror.bench.output import identity

HEAD = ("arm", "tokens/s", "speedup", "accept", "hits", "exit", "draft", "hidden", "same text")


def table(results: Sequence[dict[str, Any]]) -> str:
    """One line an arm."""
    return aligned([HEAD, *(_row(entry) for entry in results)])


def number(value: float | None) -> str:
    """A figure, or a dash where there is none."""
    return "-" if value is None else f"{value:.2f}"


def interval(ratio: Mapping[str, float | None]) -> tuple[float, float] | None:
    """The ends of a ratio's interval; None where it has none: files of before then have the ratio at both."""
    low, high = ratio["low"], ratio["high"]
    return None if low is None or high is None or low == high else (low, high)


def ratio_text(ratio: Mapping[str, float | None] | None) -> str:
    """A ratio of all tokens together, and its interval."""
    if not ratio:
        return "-"
    ends = interval(ratio)
    between = f"{ends[0]:.2f} to {ends[1]:.2f}" if ends else "-"
    return f"{number(ratio['of_totals'])} ({between})"


def same_text(entry: Mapping[str, Any]) -> str:
    """The share of texts that are plain decoding's; above temperature 0 no two samples need be the same."""
    equal = entry["text_equal"]
    return "-" if equal is None or entry["temperature"] > 0 else f"{equal:.0%}"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text in columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _row(entry: dict[str, Any]) -> tuple[str, ...]:
    hits = entry["hit_rate"] or {}
    return (
        entry["arm"],
        f"{entry['tokens_per_s']['median']:.1f}",
        ratio_text(entry["speedup"]),
        f"{entry['accept_len']:.2f}",
        *(number(hits.get(key)) for key in ("all", "exit", "draft")),
        number(entry["hidden_fraction"]),
        same_text(entry),
    )


def changes(before: dict[str, Any], after: dict[str, Any]) -> str:
    """What two runs have in common, side by side. Only their ratios compare: the host was another."""
    found = {identity(entry): entry for entry in before["results"]}
    rows: list[tuple[str, ...]] = [
        ("arm", "target", "workload", "T", "at once", "speedup", "accept", "hits", "same text")
    ]
    for entry in after["results"]:
        earlier = found.get(identity(entry))
        if earlier is not None:
            facts = (
                *(entry["arm"], entry["target"], entry["workload"]),
                *(f"{entry['temperature']:g}", str(entry["concurrency"])),
            )
            pairs = zip(_row(earlier), _row(entry), strict=True)
            old_new = [f"{old} -> {new}" for old, new in pairs]
            rows.append((*facts, old_new[2], old_new[3], old_new[4], old_new[8]))
    return aligned(rows)


def cells(results: Sequence[dict[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Results by target, workload, temperature and concurrency, with a title for each."""
    found: dict[str, list[dict[str, Any]]] = {}
    for entry in results:
        title = (
            f"{entry['workload']}, temperature {entry['temperature']:g}, concurrency {entry['concurrency']}"
        )
        if entry["target"] != OWN:
            title = f"target {entry['target']}, {title}"
        found.setdefault(title, []).append(entry)
    yield from found.items()
