"""The results page's sections on what must be the same: text, the law of sampled text, the EAGLE3 head."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from sglang_mirror.bench.chi_square import FALSE_ALARM
from sglang_mirror.bench.pair import ROOT
from sglang_mirror.bench.provenance import origin
from sglang_mirror.bench.table import number
from sglang_mirror.bench.text_table import text_table

REFERENCE = ROOT / "examples/models/eagle3/acceptance.json"


def identity(content: dict[str, Any]) -> str:
    """Share of prompts whose text is plain decoding's."""

    def row(result: dict[str, Any]) -> list[str]:
        return [
            result["arm"],
            result["dtype"],
            str(result["concurrency"]),
            f"{result['identical']} of {result['num_prompts']}",
            f"{result['tokens_before_divergence_share']:.2%}",
            number(result.get("accept_len")),
            number(result.get("hit_rate")),
        ]

    head = ["arm", "dtype", "concurrency", "identical texts", "tokens before a divergence"]
    head += ["accepted length", "hit rate"]
    return "\n".join([origin(content) + "\n", text_table(head, map(row, content["results"]))])


def law(content: dict[str, Any]) -> str:
    """Chi-square of sampled tokens against the target's exact law: the worst test of each setting."""

    def row(result: dict[str, Any]) -> list[str]:
        tests, other_order = result["num_tests"], result.get("filtered_in_turn_p")
        return [
            result["arm"],
            result["setting"],
            str(sum(group["num_tokens"] for group in result["groups"].values())),
            f"{result['smallest_p']:.3g} of {tests}",
            f"{FALSE_ALARM / tests:.2g}",
            "yes" if result["holds"] else "no",
            "-" if other_order is None else f"{other_order:.2g}",
        ]

    head = ["arm", "setting", "tokens", "smallest p", "must be above", "holds", "p if filtered in turn"]
    facts = (
        f"The smallest p of a setting's tests must be above {FALSE_ALARM:g} over their number: a sampler "
        f"that is right fails one setting in {1 / FALSE_ALARM:.0f}. The JSON has every test's p."
    )
    return "\n".join([origin(content), "", facts, "", text_table(head, map(row, content["results"]))])


def positions(content: dict[str, Any]) -> str:
    """The EAGLE3 head's chance at each position once it is reached: SGLang's, and its plain reference's."""

    def chances(counts: Sequence[int]) -> Iterator[float]:
        for place in range(len(counts) - 1):
            reached = sum(counts[place:])
            yield sum(counts[place + 1 :]) / reached if reached else 0.0

    reference = json.loads(REFERENCE.read_text(encoding="utf-8"))

    def rows() -> Iterator[list[str]]:
        yield [
            "reference",
            f"{reference['accepted_len']:.2f}",
            *(f"{chance:.2f}" for chance in reference["by_position"]),
        ]
        for result in content["results"]:
            found = chances(result["accepted_histogram"])
            yield [result["arm"], f"{result['accept_len']:.2f}", *(f"{chance:.2f}" for chance in found)]

    head = ["", "accepted length", *(str(place + 1) for place in range(reference["gamma"]))]
    return "\n".join([origin(content) + "\n", text_table(head, rows())])
