"""The results page's sections on long loads, with faults of the draft and without."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sglang_mirror.bench.provenance import origin
from sglang_mirror.bench.stats import spread
from sglang_mirror.bench.text_table import text_table


def soaked(content: dict[str, Any]) -> str:
    """What was asked and what came of it (`python -m sglang_mirror.bench.soak`)."""
    counted = (content.get(name, 0) for name in ("requests", "sampled", "left", "lost", "wrong_text", "held"))
    memory = (f"{content['rss_mb'][name]:.0f}" for name in ("start", "middle", "end"))
    head = ["requests", "of these sampled", "whose client left", "lost", "with wrong text", "held at the end"]
    head += ["MB at the start", "half-way", "at the end"]
    parts = [origin(content), "", text_table(head, [[*map(str, counted), *memory]])]
    if content["faults"]:
        parts += ["", text_table(["the draft was", "times", "mirror was back after, s"], _faults(content))]
    return "\n".join(parts)


def _faults(content: dict[str, Any]) -> Iterator[list[str]]:
    struck = content["faults"]
    for fault in sorted({each["fault"] for each in struck}):
        back = [each["back_s"] for each in struck if each["fault"] == fault]
        known = [seconds for seconds in back if seconds is not None]
        missing = f", {len(back) - len(known)} times not" if len(known) < len(back) else ""
        said = "{median:.1f} (at most {max:.1f})".format(**spread(known)) if known else "-"
        yield [fault, str(len(back)), said + missing]
