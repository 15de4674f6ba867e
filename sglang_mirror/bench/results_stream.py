"""The results page's section on streams and trees."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from sglang_mirror.bench.pair import ROOT
from sglang_mirror.bench.report import markdown
from sglang_mirror.bench.table import cells, number
from sglang_mirror.bench.text_table import text_table

ACCEPTANCE = ROOT / "examples/models/streaming/acceptance.json"


def streams(content: dict[str, Any]) -> str:
    """The arms' tables, what a window took of the draft, and what the draft's card measured."""
    found = json.loads(ACCEPTANCE.read_text(encoding="utf-8"))
    card = [
        [name, *(number(each[key]) for key in ("accepted_len", "forwards"))] for name, each in found.items()
    ]
    gamma = found["streaming"]["gamma"]
    return "\n".join(
        [
            windows(content),
            "",
            f"Without a server, windows of {gamma}, 40 held-out prompts (`python -m "
            "sglang_mirror.train.streaming_recipe --measure`):",
            "",
            text_table(["draft", "accepted length", "forwards a window"], card),
        ]
    )


def windows(content: dict[str, Any]) -> str:
    """The arms' tables, and what a window took of the draft."""

    def rows() -> Iterator[list[str]]:
        for title, entries in cells(content["results"]):
            for entry in entries:
                if entry["draft_forwards"] is not None:
                    step = entry["step_ms"]
                    figures = (entry["draft_forwards"], step["draft_exposed"], step["target"], step["wall"])
                    yield [title, entry["arm"], number(entry["accept_len"]), *map(number, figures)]

    head = ["", "arm", "accepted length", "forwards a window", "draft waited for, ms", "target ms", "step ms"]
    return "\n".join(
        [
            markdown(content),
            "What a window took of the draft (a serial arm waits for all of it):",
            "",
            text_table(head, rows()),
        ]
    )
