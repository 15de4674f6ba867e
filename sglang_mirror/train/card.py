"""The model cards: what the pair learned from, how well it does, and how to make it again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

ABOUT = {
    "target": "The embedded pair's target: 8 layers, 256 wide, 4 query and 2 KV heads of 64 channels. "
    "Its early exit after layer 4 was distilled from its own end.",
    "draft": "The embedded pair's draft: 2 layers, 128 wide, 2 query heads and 1 KV head of 64 channels.",
}
FRONT = """---
license: apache-2.0
language: [code]
library_name: transformers
pipeline_tag: text-generation
---
"""
PURPOSE = """
Both models are Qwen3-form causal language models over Python source text with one tokenizer (byte-level BPE,
4,096 entries), trained from nothing on a CPU by `sglang_mirror/train`. They are here so that speculative
decoding can be shown and tested on any machine without a download. They write text that looks like Python and
seldom means anything: do not use them for anything else. They know no chat: the chat template joins the
messages into one text to go on from.
"""

# The training phases stand between these two lines.
PARAMETERS, HELD_OUT = "* parameters: ", "* held-out loss: "


def card(role: str, report: Mapping[str, Any]) -> str:
    """The README.md of `role` ("target" or "draft") from the evaluation's report."""
    model = report[role]
    parts = [
        FRONT,
        f"# Embedded pair: {role}\n",
        ABOUT[role],
        PURPOSE,
        "## Training\n",
        f"{PARAMETERS}{model['num_parameters']:,}, shipped in bf16",
        *(f"* {line}" for line in model["phases"]),
        f"{HELD_OUT}{model['heldout_nats']:.3f} nats/token, {model['heldout_bits']:.3f} bits/byte "
        f"({report['num_heldout_tokens']:,} tokens of CPython files not trained on, every 4th window)",
        "* again: `python -m sglang_mirror.train.recipe --work out/train --out examples/models`\n",
        "## Accepted length\n",
        acceptance_table(report["acceptance"]),
        coverage_tables(report["acceptance"]),
        "## What it writes\n",
        *(sample(s) for s in report["samples"] if role == "target"),
        "See the target's card.\n" if role == "draft" else "",
        "## Data\n",
        data_table(report["packages"]),
        "\nThe weights and the recipe are under Apache-2.0; the sources keep their own licences.",
    ]
    return "\n".join(parts).rstrip() + "\n"


def phases_in(text: str) -> list[str]:
    """The training phases that a card lists, in their order."""
    lines = text.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith(PARAMETERS))
    last = next(number for number, line in enumerate(lines) if line.startswith(HELD_OUT))
    return [line.removeprefix("* ") for line in lines[first + 1 : last]]


def acceptance_table(results: Iterable[Mapping[str, Any]]) -> str:
    """Accepted length per step by temperature and gamma."""
    rows = [
        "Tokens committed by a verification (bonus included), chain of gamma greedy draft tokens, after the",
        "first 40 prompts of `examples/data/heldout.jsonl`, 96 tokens each. A small model at temperature 0",
        "often falls into repeating itself, which is easy to draft: temperature 1 is the more telling row.\n",
        "| temperature | gamma | steps | accepted length | full windows |",
        "|---|---|---|---|---|",
    ]
    for r in results:
        setting = f"| {r['temperature']:g} | {r['gamma']} | {r['steps']} "
        rows.append(setting + f"| {r['accepted_len']:.2f} | {r['full']:.0%} |")
    return "\n".join(rows) + "\n"


def coverage_tables(results: Iterable[Mapping[str, Any]]) -> str:
    """Share of real corrections among the top kappa candidates at their node, for the first result."""
    first = next(iter(results))
    rows = [
        "Share of the real corrections among the top-κ candidates at their node (own child masked), "
        f"temperature {first['temperature']:g}, gamma {first['gamma']}; `exit n`: after layer n.\n",
    ]
    for title, key in (("at a rejection", "at_rejection"), ("at the bonus", "at_bonus")):
        kappas = list(first[key]["draft"])
        rows += [
            f"| {title} | " + " | ".join(f"κ={k}" for k in kappas) + " |",
            "|---" * (len(kappas) + 1) + "|",
        ]
        for name, coverage in first[key].items():
            rows.append(f"| {name} | " + " | ".join(f"{coverage[k]:.2f}" for k in kappas) + " |")
        rows.append("")
    return "\n".join(rows)


def sample(item: Mapping[str, str]) -> str:
    """A prompt and the target's greedy continuation."""
    prompt = "\n".join(item["prompt"].splitlines()[-12:])
    return (
        f"After the prompt `{item['id']}` (`{item['source']}`), at temperature {item['temperature']}:\n\n"
        f"```python\n{prompt}\n# --- continued by the model:{item['text']}\n```\n"
    )


def data_table(packages: Iterable[Mapping[str, Any]]) -> str:
    """Where the training text came from."""
    rows = ["| package | version | licence | files | MB |", "|---|---|---|---|---|"]
    for p in packages:
        megabytes = p["bytes"] / 1e6
        rows.append(f"| {p['package']} | {p['version']} | {p['licence']} | {p['files']} | {megabytes:.1f} |")
    return "\n".join(rows)
