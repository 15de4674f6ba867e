"""The results page's sections on what was measured on a GPU, besides comparisons."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sglang_mirror.bench.provenance import origin, origin_if_any
from sglang_mirror.bench.table import number
from sglang_mirror.bench.text_table import text_table

BACKENDS = {
    "torch": "CUDA graphs",
    "torch-fused": "CUDA graphs, merged kernels",
    "torch-eager": "eagerly",
}


def rollouts(content: dict[str, Any]) -> str:
    """The draft's forwards by rows, and whole rollouts (`python -m sglang_mirror.draft.timing`).

    Older files have neither the service's time nor the vocabulary, which was the small model's.
    """
    timed = {how: content[name] for name, how in BACKENDS.items() if name in content}
    served = any("service_ms" in found for found in timed.values())

    def rows() -> Iterator[list[str]]:
        for how, found in timed.items():
            forwards = (found["forward_ms"][count]["median"] for count in ("1", "16", "64", "128"))
            row = [how, *(number(each) for each in forwards), number(found["draft_ms"]["median"])]
            yield [*row, number(found.get("service_ms", {}).get("median"))] if served else row

    head = ["", *(f"{count} rows" for count in (1, 16, 64, 128))]
    head.append(f"{content['roots']} roots, {content['gamma']} deep")
    head += ["a step of the service"] if served else []
    facts = (
        f"A draft of shape {content['shape']} on {content['device']}, torch {content['torch_version']} "
        f"(`python -m sglang_mirror.draft.timing`): milliseconds of a forward behind {content['text']} "
        "tokens of text, and of a whole rollout; medians."
    )
    if served:
        vocabulary = ", ".join(sorted({f"{found['vocabulary']:,}" for found in timed.values()}))
        facts += (
            f" Candidates are chosen from {vocabulary} ids. A step of the service begins with the message "
            "that an outcome hit, and ends when all roots have their branches: its own Python is in it, and "
            "the choice of roots, behind the forward of the window's last node."
        )
    return f"{origin_if_any(content)}\n\n{facts}\n\n{text_table(head, rows())}"


def signal(content: dict[str, Any]) -> str:
    """The signal's way out of a captured graph (`python -m tests.gpu.signal_timing`)."""
    steps = {name: content[name]["median"] for name in ("step_without_exit", "step_with_exit", "head_alone")}
    rows = [
        ["a step without the exit", number(steps["step_without_exit"])],
        ["with it", f"{steps['step_with_exit']:.2f} ({exit_cost(content):+.1%})"],
        ["the exit's norm and head alone", number(steps["head_alone"])],
        ["from the end of layer l_e to the host's thread", number(content["signal_at_host"])],
        ["from the end of layer l_e to the draft's process", number(content["signal_at_draft"])],
    ]
    options = {name: content[name] for name in ("shape", "nodes", "exit_vocab", "count") if name in content}
    given = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in options.items())
    facts = (
        f"`python -m tests.gpu.signal_timing {given}`: milliseconds, medians; letters lost: "
        f"{content['count'] - content['letters']}, torn: {content['torn']}. The exit reads as many rows of "
        "the head as `--exit-vocab` says, all of them where it is not named."
    )
    return f"{origin_if_any(content)}\n\n{facts}\n\n{text_table(['', 'ms'], rows)}"


def exit_cost(content: dict[str, Any]) -> float:
    """What the exit adds to a step, as a share of it."""
    with_exit, without = (content[name]["median"] for name in ("step_with_exit", "step_without_exit"))
    return float(with_exit / without - 1)


def checked(content: dict[str, Any]) -> str:
    """Text against plain decoding's, by family, backend and way (`make gpu-check`)."""

    def row(result: dict[str, Any]) -> list[str]:
        what = [result[name] for name in ("family", "backend", "arm")]
        if "identical" not in result:
            return [*what, *"------", result["failed"]]
        hits = result["hit_rate"]
        return [
            *what,
            f"{result['identical']} of {result['num_prompts']}",
            str(result["ties"]),
            str(len(result["unexplained"])),
            number(result["accept_len"]),
            number(hits["all"] if isinstance(hits, dict) else hits),
            f"{result['steps']} ({result['plain_steps']})",
            result["failed"] or "",
        ]

    head = ["family", "backend", "way", "identical texts", "differ at a tie", "differ otherwise"]
    head += ["accepted length", "hit rate", "steps (plain)", "failed"]
    return f"{origin(content)}\n\n{text_table(head, map(row, content['results']))}"
