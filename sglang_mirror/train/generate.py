"""Text that a model writes itself, many rows at once."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import torch
from transformers import DynamicCache, Qwen3ForCausalLM

from sglang_mirror.train.data import Windows

logger = logging.getLogger(__name__)


@torch.no_grad()  # type: ignore[untyped-decorator]
def continue_rows(
    model: Qwen3ForCausalLM, prefixes: torch.Tensor, num_tokens: int, temperatures: torch.Tensor
) -> torch.Tensor:
    """Continues every row: prefixes [B, P], temperatures [B] (0 = greedy) -> tokens [B, num_tokens].

    What goes in may be on any device; what comes out is on the model's.
    """
    cache = DynamicCache(config=model.config)
    any_sampled = bool((temperatures > 0).any())  # asked once: on a GPU each answer is waited for
    temperatures = temperatures.to(model.device)
    sampled = temperatures > 0
    inputs, written = prefixes.to(model.device), []
    for _ in range(num_tokens):
        hidden = model.model(input_ids=inputs, past_key_values=cache, use_cache=True).last_hidden_state
        logits = model.lm_head(hidden[:, -1]).float()  # [B, V]
        token = logits.argmax(-1)
        if any_sampled:
            scaled = logits[sampled] / temperatures[sampled, None]
            token[sampled] = torch.multinomial(scaled.softmax(-1), 1)[:, 0]
        inputs = token[:, None]
        written.append(token)
    return torch.stack(written, 1)


def own_text(
    model: Qwen3ForCausalLM,
    windows: Windows,
    path: Path,
    *,
    seconds: float,
    rows: int = 128,
    num_tokens: int = 192,
) -> torch.Tensor:
    """Prefixes of the corpus with what `model` writes after them, half greedy, half sampled at temperature 1.

    Writes for about `seconds` on the model's device, and keeps the result in `path`: [N, 64 + num_tokens]
    int64, on the CPU.
    """
    if path.exists():
        kept: torch.Tensor = torch.load(path, map_location="cpu", weights_only=True)
        return kept.long()
    temperatures = torch.arange(rows) % 2.0
    began = time.monotonic()
    pieces: list[torch.Tensor] = []
    while not pieces or time.monotonic() - began < seconds:
        prefixes = windows.batch(len(pieces), rows, 63)
        torch.manual_seed(len(pieces))
        with torch.autocast(model.device.type, torch.bfloat16):
            text = continue_rows(model, prefixes, num_tokens, temperatures).cpu()
        pieces.append(torch.cat([prefixes, text], 1))
        logger.info("own text: %d rows, %.0f s", rows * len(pieces), time.monotonic() - began)
    result = torch.cat(pieces)
    torch.save(result.to(torch.int32), path)
    return result
