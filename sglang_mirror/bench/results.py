"""`python -m sglang_mirror.bench.results`: docs/results.md from the JSON files beside it."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sglang_mirror.bench.pair import ROOT
from sglang_mirror.bench.provenance import origin
from sglang_mirror.bench.report import markdown
from sglang_mirror.bench.results_gpu import rollouts, signal
from sglang_mirror.bench.results_soak import soaked
from sglang_mirror.bench.results_stream import streams, windows
from sglang_mirror.bench.table import cells, number, ratio_text, same_text
from sglang_mirror.bench.text_table import text_table
from sglang_mirror.core.latency import Parts, step_ms

FOLDER = ROOT / "docs/results"
PAGE = ROOT / "docs/results.md"
README = ROOT / "README.md"
REFERENCE = ROOT / "examples/models/eagle3/acceptance.json"
AGAINST = ("plain", "plain:cores=all", "standalone", "eagle3", "serial")
MARKS = ("<!-- results -->", "<!-- /results -->")
HEAD = """# Results

Generated from the JSON files in docs/results by `python -m sglang_mirror.bench.results`; do not edit.
`make results` measures everything anew. Ratios are of runs side by side: the arms' servers stand next to
each other and take turns; medians over the repeats, lowest and highest in brackets.
"""


def _spread(values: dict[str, float], low: str, high: str, digits: int) -> str:
    return f"{values['median']:.{digits}f} ({values[low]:.{digits}f} to {values[high]:.{digits}f})"


def speed(content: dict[str, Any]) -> str:
    """Arms side by side: speed, acceptance, hits, and where a step's time goes."""

    def row(result: dict[str, Any]) -> list[str]:
        hits, step = result["hit_rate"] or {}, result["step_ms"] or {}
        return [
            result["arm"],
            _spread(result["tokens_per_s"], "min", "max", 1),
            _spread(result["speedup"], "low", "high", 2),
            number(result["accept_len"]),
            *(number(hits.get(source)) for source in ("all", "draft", "exit")),
            number(result["hidden_fraction"]),
            *(number(step.get(part)) for part in ("target", "draft_exposed", "rendezvous")),
            same_text(result),
        ]

    head = ["arm", "tokens/s", "against plain", "accepted length", "hit rate", "by draft", "by exit"]
    head += ["hidden", "target ms", "draft exposed ms", "rendezvous ms", "same text"]
    first = content["results"][0]
    facts = (
        f"{first['num_prompts']} prompts, temperature {first['temperature']:g}, "
        f"concurrency {first['concurrency']}; times are of one step."
    )
    ratio = _against_serial(content["results"])
    return "\n".join(
        [origin(content) + "\n", facts, ratio, "", text_table(head, map(row, content["results"]))]
    )


def _against_serial(results: Sequence[dict[str, Any]]) -> str:
    speeds = {result["arm"]: result["tokens_per_s"]["median"] for result in results}
    if not {"mirror", "serial"} <= speeds.keys():
        return ""
    return f"Mirror against the same draft run serially: {speeds['mirror'] / speeds['serial']:.2f}x."


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
    """Chi-square of sampled tokens against the target's exact law."""

    def rows() -> Iterator[list[str]]:
        for result in content["results"]:
            groups = result["groups"]
            for group, found in groups.items():
                yield [
                    result["arm"],
                    result["setting"],
                    group,
                    *(f"{found[test]['p_value']:.3g}" for test in ("slice", "quantile")),
                    str(found["num_tokens"]),
                ]

    head = ["arm", "setting", "tokens from", "p, slice", "p, quantiles", "tokens"]
    return "\n".join([origin(content) + "\n", text_table(head, rows())])


def comparison(content: dict[str, Any]) -> str:
    """Every table of a comparison, and mirror against each other arm."""

    def rows() -> Iterator[list[str]]:
        for title, entries in cells(content["results"]):
            for ours in entries:
                if ours["arm"].startswith("mirror"):
                    yield [title, ours["arm"], *(ratio_text(ours["ratios"].get(name)) for name in AGAINST)]

    head = ["", "arm", *(f"against {name}" for name in AGAINST)]
    skipped = [f"* {each['arm']} did not run: {each['reason']}" for each in content["skipped"]]
    parts = [
        markdown(content),
        *skipped,
        "",
        "Tokens a second, of all questions together, with 95% intervals:",
    ]
    return "\n".join([*parts, "", text_table(head, rows())])


def latency(content: dict[str, Any]) -> str:
    """What the latency law makes of a step's parts, and what was measured.

    A fresh rollout and the engine's own time are the serial arm's, all else the mirror arm's. A hit is never
    waited for. The target's forward takes longer beside a busy draft, as far as they share memory; the last
    column is the law with the forward of the serial arm, whose draft waits meanwhile.
    """

    def rows() -> Iterator[list[str]]:
        for title, entries in cells(content["results"]):
            serial = next((each["step_ms"] for each in entries if each["arm"].startswith("serial")), None)
            for entry in entries:
                if serial and entry["arm"].startswith("mirror") and entry["concurrency"] == 1:
                    step, hits = entry["step_ms"], entry["hit_rate"]["all"]
                    parts = Parts(
                        before_exit=step["target"],
                        exit=step["exit"],
                        after_exit=0.0,
                        rollout=0.0,
                        rendezvous=step["rendezvous"],
                        fresh=serial["draft_exposed"],
                        host=serial["host"],
                    )
                    predicted = step_ms(parts, hit_rate=hits)
                    alone = step_ms(dataclasses.replace(parts, before_exit=serial["target"]), hit_rate=hits)
                    figures = (serial["target"], step["target"], parts.fresh, parts.host, parts.exit)
                    yield [
                        *(title, entry["arm"], *(f"{value:.2f}" for value in figures)),
                        *(f"{value:.2f}" for value in (parts.rendezvous, hits, predicted, step["wall"])),
                        *(f"{value / step['wall'] - 1:+.1%}" for value in (predicted, alone)),
                    ]

    head = ["", "arm", "target alone", "target", "fresh rollout", "engine", "exit", "rendezvous", "hit rate"]
    head += ["predicted ms", "measured ms", "difference", "with the target alone"]
    return "\n".join([origin(content) + "\n", text_table(head, rows())])


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


SECTIONS = (
    ("bench.json", "The comparison", comparison),
    ("bench-8.json", "The comparison with eight questions at once", comparison),
    ("spec-bench.json", "Spec-Bench's questions, two a task", comparison),
    ("latency.json", "The latency law", latency),
    ("eagle3.json", "The EAGLE3 head, position by position", positions),
    ("tune.json", "What the arms' settings were chosen from", tuning),
    ("speed.json", "Speed, one core each", speed),
    ("identity.json", "The same text at temperature 0, float32", identity),
    ("identity-bfloat16.json", "Divergence in bfloat16", identity),
    ("law.json", "The law at temperature 1", law),
    ("stream.json", "Streams and trees", streams),
    ("windows.json", "Windows of full size: either draft, chain and tree", windows),
    ("windows-33m.json", "The same drafts in the shape of 33 million parameters", windows),
    ("law-stream.json", "The law with streams and trees", law),
    ("policy.json", "Speculation given up where it loses", comparison),
    ("soak.json", "Ten minutes of every kind of request", soaked),
    ("soak-overlap.json", "The same by SGLang's overlap schedule", soaked),
    ("faults.json", "The same while the draft is killed, ended and stopped", soaked),
    ("gpu.json", "On a GPU: targets of 14 and 32 billion parameters", comparison),
    ("gpu-14b.json", "On a GPU: a target of 14 billion parameters", comparison),
    ("gpu-32b.json", "On a GPU: a target of 32 billion parameters", comparison),
    ("gpu-draft.json", "On a GPU: the draft's forwards", rollouts),
    ("gpu-signal.json", "On a GPU: the signal's way out", signal),
    ("gpu-signal-32k.json", "On a GPU: the signal's way out, from the first 32,768 ids of the head", signal),
)


def page(folder: Path) -> str:
    """The whole page, from the files that are there."""
    parts = [HEAD]
    for name, title, section in SECTIONS:
        path = folder / name
        if path.is_file():
            parts.append(f"## {title}\n\n{section(json.loads(path.read_text(encoding='utf-8')))}\n")
    notes = folder / "notes.md"
    if notes.is_file():
        parts.append(notes.read_text(encoding="utf-8"))
    return "\n".join(parts)


def summary(content: dict[str, Any]) -> str:
    """The few figures that the README shows: one question at a time, temperature 0, for each target."""

    def rows() -> Iterator[list[str]]:
        for result in content["results"]:
            if (result["temperature"], result["concurrency"]) == (0, 1):
                yield [
                    result["target"],
                    result["arm"],
                    f"{result['tokens_per_s']['median']:.1f}",
                    ratio_text(result["speedup"]),
                    number(result["accept_len"]),
                    number((result["hit_rate"] or {}).get("all")),
                    number(result["hidden_fraction"]),
                ]

    head = ["target", "arm", "tokens/s", "against plain", "accepted length", "hit rate", "hidden"]
    return text_table(head, rows())


def with_summary(readme: str, content: dict[str, Any]) -> str:
    """The README with its table renewed."""
    before, rest = readme.split(MARKS[0])
    return f"{before}{MARKS[0]}\n{summary(content)}\n{MARKS[1]}{rest.split(MARKS[1])[1]}"


def main() -> int:
    """Write the page, and the README's table."""
    PAGE.write_text(page(FOLDER), encoding="utf-8")
    measured = FOLDER / "bench.json"
    if measured.is_file():
        content = json.loads(measured.read_text(encoding="utf-8"))
        README.write_text(with_summary(README.read_text(encoding="utf-8"), content), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
