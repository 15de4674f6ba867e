"""A pair to go on from: its tokenizer, its weights, and what its cards say of its training."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from sglang_mirror.train.card import phases_in
from sglang_mirror.train.shapes import build


def start_model(start: Path | None, role: str, config: Qwen3Config) -> Qwen3ForCausalLM:
    """The model of `role` ("target", "draft") in the pair `start`, in fp32; without a pair, a new one."""
    model = build(config)
    if start is not None:
        earlier = Qwen3ForCausalLM.from_pretrained(start / role, dtype=torch.float32)
        model.load_state_dict(earlier.state_dict())
    return model


def phases_so_far(start: Path | None, role: str) -> list[str]:
    """The phases that `role` went through before, as its card lists them."""
    return [] if start is None else phases_in((start / role / "README.md").read_text())
