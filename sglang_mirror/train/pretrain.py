"""The target's training: next-token cross-entropy on random windows."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import Qwen3ForCausalLM

from sglang_mirror.train import attention
from sglang_mirror.train.data import Windows
from sglang_mirror.train.shapes import target_config
from sglang_mirror.train.start import start_model
from sglang_mirror.train.trainer import Loss, Plan, Trainer

FAVOURED_SHARE = 0.5  # of the windows begin in CPython's library, whose style the prompts have


def next_token_loss(model: Qwen3ForCausalLM, *, compiled: bool) -> Loss:
    """Mean cross-entropy in nats, matrix products in bf16."""

    def loss(inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        hidden = model.model(input_ids=inputs, use_cache=False).last_hidden_state  # [B, T, d]
        return F.cross_entropy(model.lm_head(hidden).flatten(0, 1), labels.flatten())

    fast: Loss = torch.compile(loss, dynamic=False) if compiled else loss

    def autocast_loss(inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return fast(inputs, labels)

    return autocast_loss


def training_windows(work: Path, seed: int) -> Windows:
    """The training tokens that `prepare` wrote under `work`."""
    manifest = json.loads((work / "corpus.json").read_text())
    return Windows(
        work / "train.bin",
        seed=seed,
        num_favoured=manifest["num_cpython_tokens"],
        favoured_share=FAVOURED_SHARE,
    )


def pretrain(work: Path, plan: Plan, *, start: Path | None = None, compiled: bool = True) -> Trainer:
    """Trains the target, from `start`'s if there is one; its checkpoint is `work`/target.pt."""
    model = start_model(start, "target", target_config())
    model.set_attn_implementation(attention.NAME)
    loss = next_token_loss(model, compiled=compiled)
    trainer = Trainer(model, loss, training_windows(work, seed=1), plan, work / "target.pt")
    trainer.train()
    return trainer
