"""Measures a finished pair and gathers all that its cards say."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from sglang_mirror.train.evaluate import acceptance, bits_per_byte, heldout_loss
from sglang_mirror.train.generate import continue_rows

logger = logging.getLogger(__name__)

GAMMAS = (5, 7)
SAMPLES = (("heldout-000", 0.0), ("heldout-001", 0.0), ("heldout-002", 0.7))
SAMPLE_TOKENS = 96
NUM_PROMPTS, NUM_TOKENS = 40, 96  # of the acceptance table


def phase(name: str, checkpoint: Path) -> str:
    """A line on one training phase, from its checkpoint."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    return (
        f"{name}: {state['tokens']:,} tokens in {state['step']:,} steps, {state['seconds'] / 60:.0f} minutes"
    )


def measure(
    work: Path,
    target: Qwen3ForCausalLM,
    draft: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """Losses, acceptance at temperatures 0 and 1, samples and the data's table, as plain JSON values."""
    manifest = json.loads((work / "corpus.json").read_text())
    num_tokens, num_bytes = manifest["num_heldout_tokens"], manifest["num_heldout_bytes"]
    report: dict[str, Any] = {"num_heldout_tokens": num_tokens, "packages": manifest["packages"]}
    for role, model in (("target", target), ("draft", draft)):
        nats = heldout_loss(model, work / "heldout.bin")
        report[role] = {
            "num_parameters": model.num_parameters(),
            "heldout_nats": nats,
            "heldout_bits": bits_per_byte(nats, num_tokens, num_bytes),
        }
        logger.info("%s: held-out loss %.4f nats/token", role, nats)
    short = [tokenizer.encode(p["prompt"]) for p in prompts if not p["long"]][:NUM_PROMPTS]
    report["acceptance"] = [
        result
        for temperature in (0.0, 1.0)
        for result in acceptance(
            target, draft, short, gammas=GAMMAS, temperature=temperature, num_tokens=NUM_TOKENS
        )
    ]
    report["samples"] = [write_sample(target, tokenizer, prompts, *which) for which in SAMPLES]
    return report


def write_sample(
    target: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[dict[str, Any]],
    identity: str,
    temperature: float,
) -> dict[str, Any]:
    """The target's continuation of the prompt called `identity`."""
    prompt = next(p for p in prompts if p["id"] == identity)
    torch.manual_seed(0)
    prefix = torch.tensor([tokenizer.encode(prompt["prompt"])])
    text = continue_rows(target, prefix, SAMPLE_TOKENS, torch.tensor([temperature]))
    kept = {key: prompt[key] for key in ("id", "source", "prompt")}
    return kept | {"temperature": temperature, "text": tokenizer.decode(text[0])}
