"""The results page's sections on what was measured on a GPU, besides comparisons."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sglang_mirror.bench.table import number
from sglang_mirror.bench.text_table import text_table

BACKENDS = {
    "torch": "CUDA graphs",
    "torch-fused": "CUDA graphs, merged kernels",
    "torch-eager": "eagerly",
}


def rollouts(content: dict[str, Any]) -> str:
    """The draft's forwards by rows, and whole rollouts (`python -m sglang_mirror.draft.timing`)."""

    def rows() -> Iterator[list[str]]:
        for name, how in BACKENDS.items():
            if (found := content.get(name)) is None:  # not asked for, or refused
                continue
            forwards = (found["forward_ms"][rows]["median"] for rows in ("1", "16", "64", "128"))
            yield [how, *(number(each) for each in forwards), number(found["draft_ms"]["median"])]

    head = ["", *(f"{rows} rows" for rows in (1, 16, 64, 128))]
    head.append(f"{content['roots']} roots, {content['gamma']} deep")
    facts = (
        f"`python -m sglang_mirror.draft.timing --shape {content['shape']}` on {content['device']}, torch "
        f"{content['torch_version']}: milliseconds of a forward behind {content['text']} tokens of text, and "
        "of a whole rollout; medians."
    )
    return f"{facts}\n\n{text_table(head, rows())}"


def signal(content: dict[str, Any]) -> str:
    """The signal's way out of a captured graph (`python -m tests.gpu.signal_timing`)."""
    steps = {name: content[name]["median"] for name in ("step_without_exit", "step_with_exit", "head_alone")}
    cost = steps["step_with_exit"] / steps["step_without_exit"] - 1
    rows = [
        ["a step without the exit", number(steps["step_without_exit"])],
        ["with it", f"{steps['step_with_exit']:.2f} ({cost:+.1%})"],
        ["the exit's norm and head alone", number(steps["head_alone"])],
        ["from the end of layer l_e to the host's thread", number(content["signal_at_host"])],
        ["from the end of layer l_e to the draft's process", number(content["signal_at_draft"])],
    ]
    facts = (
        f"`python -m tests.gpu.signal_timing --shape {content['shape']} --nodes {content['nodes']}`, on the "
        f"comparison's machine: milliseconds, medians of {content['count']} replays; letters lost: "
        f"{content['count'] - content['letters']}, torn: {content['torn']}."
    )
    return f"{facts}\n\n{text_table(['', 'ms'], rows)}"
