"""The results page's first table: every figure that was asked for, beside what was found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from sglang_mirror.bench.judges import (
    Content,
    Judge,
    at_least,
    at_most,
    explained,
    faster,
    fastest_of,
    field,
    law_of_latency,
    lawful,
    leading_mirror,
    least_same_text,
    mirrors_texts,
    quotient,
    rates_of_texts,
    same_texts,
    stated,
    unharmed,
)
from sglang_mirror.bench.results_gpu import exit_cost

HEAD = ("wanted", "found", "met", "where")
NOT_MEASURED = ("-", "not measured")

# A file's content, or None if there is no such file.
Read = Callable[[str], Content | None]

ONE: dict[str, Any] = {"temperature": 0, "concurrency": 1}
SMALL, LARGE = {**ONE, "target": "own"}, {**ONE, "target": "0.25b+12m"}
BILLIONS = {size: {**ONE, "target": f"qwen3-{size}b+0.6b"} for size in (14, 32)}
SAMPLED = {"temperature": 1}
GPU_FILES = ("gpu.json", "gpu-14b.json", "gpu-32b.json")
WHOLE = "speculate=always,window_end=full"
PLAIN, STREAMS = (
    f"serial:draft={draft},gamma=7,miss_wait_ms=1000,{WHOLE}" for draft in ("plain", "streaming")
)
CHAIN, TREE = (f"serial:window={window},{WHOLE}" for window in ("chain", "tree"))
FOUR = ("mirror:draft=streaming", "mirror:draft=plain", "serial:draft=streaming", "serial:draft=plain")
SPEED = ("tokens_per_s", "median")


def over(first: str, second: str, *path: str, **facts: Any) -> Callable[[Content], float | None]:
    """A field of one arm over the same of another."""
    return quotient(field(first, *path, **facts), field(second, *path, **facts))


@dataclass(frozen=True, slots=True)
class Wanted:
    """One figure.

    Attributes:
        what: is wanted.
        files: asked in turn, until one says anything of it.
        judge: finds it there.
    """

    what: str
    files: tuple[str, ...]
    judge: Judge


SERVE = (
    Wanted(
        "Temperature 0, float32, 60 prompts at 1 and 8 at once, all kinds of roots: plain's text",
        ("identity.json",),
        mirrors_texts,
    ),
    Wanted("bfloat16: how often the text differs", ("identity-bfloat16.json",), rates_of_texts),
    Wanted("Temperature 1: the law is the target's, 20,000 tokens a setting", ("law.json",), lawful),
    Wanted("One core each, small target: 1.6 times plain", ("speed.json",), faster(1.6, "plain")),
    Wanted("1.25 times the same draft run serially", ("speed.json",), faster(1.25, "serial")),
    Wanted("The same in the comparison", ("bench.json",), faster(1.25, "serial", **SMALL)),
    Wanted("The same, enlarged target", ("bench.json",), faster(1.25, "serial", **LARGE)),
    Wanted("Accepted length 3", ("speed.json",), at_least(3.0, field("mirror", "accept_len"))),
    Wanted("Hit rate 0.7", ("speed.json",), at_least(0.7, field("mirror", "hit_rate", "all"))),
    Wanted(
        "0.8 of the draft's time hidden", ("speed.json",), at_least(0.8, field("mirror", "hidden_fraction"))
    ),
    Wanted(
        "Plain decoding on both cores, against one",
        ("speed.json",),
        stated(field("plain:cores=all", "speedup", "of_totals")),
    ),
    Wanted(
        "Draft killed, ended, stopped under load: nothing lost, no wrong text", ("faults.json",), unharmed
    ),
)
COMPARE = (
    Wanted("Every arm's text at temperature 0 is plain's", ("bench.json",), same_texts),
    Wanted("Enlarged target: 2.5 times plain", ("bench.json",), faster(2.5, "plain", **LARGE)),
    Wanted("1.3 times standalone", ("bench.json",), faster(1.3, "standalone", **LARGE)),
    Wanted("1.3 times EAGLE3", ("bench.json",), faster(1.3, "eagle3", **LARGE)),
    Wanted(
        "The same where standalone's target has both cores, too",
        ("bench-cores.json",),
        faster(1.3, "standalone:cores=all", **LARGE),
    ),
    Wanted("And where EAGLE3's has", ("bench-cores.json",), faster(1.3, "eagle3:cores=all", **LARGE)),
    Wanted("The latency law within 10%", ("latency.json",), law_of_latency),
)
STREAM = (
    Wanted(
        "Windows of 7: at most 0.6 of the plain draft's forwards",
        ("windows.json",),
        at_most(0.6, over(STREAMS, PLAIN, "draft_forwards", **ONE)),
    ),
    Wanted(
        "Their accepted length at least 0.97 of the plain draft's",
        ("windows.json",),
        at_least(0.97, over(STREAMS, PLAIN, "accept_len", **ONE)),
    ),
    Wanted(
        "The draft's time a window falls: embedded pair",
        ("windows.json",),
        at_most(1.0, over(STREAMS, PLAIN, "step_ms", "draft_exposed", **ONE), "{:.2f} of the plain draft's"),
    ),
    Wanted(
        "The draft's time a window falls: draft of 33 million parameters",
        ("windows-33m.json",),
        at_most(1.0, over(STREAMS, PLAIN, "step_ms", "draft_exposed", **ONE), "{:.2f} of the plain draft's"),
    ),
    Wanted(
        "Trees of 16 nodes: 1.08 of a chain's accepted length",
        ("windows.json",),
        at_least(1.08, over(TREE, CHAIN, "accept_len", **ONE)),
    ),
    Wanted(
        "The same at temperature 1", ("windows.json",), stated(over(TREE, CHAIN, "accept_len", **SAMPLED))
    ),
    Wanted("With streams and trees: plain's text at temperature 0", ("stream.json",), same_texts),
    Wanted("With streams and trees: the law at temperature 1", ("law-stream.json",), lawful),
    Wanted(
        "Mirror with streams the fastest of the four: small target",
        ("stream.json",),
        fastest_of(*FOUR, **SMALL),
    ),
    Wanted(
        "Mirror with streams the fastest of the four: enlarged target",
        ("stream.json",),
        fastest_of(*FOUR, **LARGE),
    ),
)
GPU = (
    *(
        Wanted(
            f"GPU, {size} billion: {least} times {than}",
            GPU_FILES,
            leading_mirror(least, than.lower(), **cell),
        )
        for size, cell in BILLIONS.items()
        for least, than in ((2.8, "plain"), (1.3, "EAGLE3"))
    ),
    *(
        Wanted(f"GPU, {size} billion: mirror's text is plain's", GPU_FILES, least_same_text(**cell))
        for size, cell in BILLIONS.items()
    ),
    Wanted(
        "GPU: texts as plain's, ties in bfloat16 aside (`make gpu-check`)", ("gpu-check.json",), explained
    ),
    Wanted(
        "GPU: signal at the draft at most 0.2 ms after layer l_e",
        ("gpu-signal.json",),
        at_most(0.2, lambda content: content["signal_at_draft"]),
    ),
    Wanted(
        "The same, exit over 32,768 ids",
        ("gpu-signal-32k.json",),
        at_most(0.2, lambda content: content["signal_at_draft"]),
    ),
    Wanted(
        "GPU: the exit costs at most 2% of a step", ("gpu-signal.json",), at_most(0.02, exit_cost, "{:.1%}")
    ),
    Wanted("The same, exit over 32,768 ids", ("gpu-signal-32k.json",), at_most(0.02, exit_cost, "{:.1%}")),
)


def rollout(read: Read) -> Wanted:
    """A rollout within what an exit at half depth leaves of a step; the step is of another file."""
    plain = field("plain", *SPEED, **BILLIONS[32])
    speeds = [speed for name in GPU_FILES if (found := read(name)) and (speed := plain(found))]
    half_ms = 1000 / speeds[0] / 2 if speeds else 0.0
    what = f"GPU: 64 roots, 7 deep, within half of a step of the 32 billion target ({half_ms:.1f} ms)"
    return Wanted(
        what,
        ("gpu-draft.json",),
        at_most(half_ms, lambda content: content["torch"]["draft_ms"]["median"], "{:.1f} ms"),
    )


def wanted_rows(read: Read, link: Callable[[str], str]) -> Iterator[list[str]]:
    """The table's rows.

    Args:
        read: a results file by its name.
        link: to the section of a file, by its name.
    """
    for each in (*SERVE, *COMPARE, *STREAM, *GPU, rollout(read)):
        found, file = NOT_MEASURED, each.files[0]
        for name in each.files:
            content = read(name)
            finding = each.judge(content) if content else None
            if finding:
                found, file = finding, name
                break
        yield [each.what, *found, link(file) if found != NOT_MEASURED else file]
