"""The target's training: next-token cross-entropy on random windows, and an early exit worth reading.

In the second part of it the early exit at half depth is distilled from the model's own end, as in LayerSkip
(Elhoushi et al., 2024): an exit that was never trained guesses the target's next word worse than the draft.
"""

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

EXIT_FROM = 0.5  # of the training: what the exit is to imitate is worth imitating by then
EXIT_SHARE = 0.3  # of the exit's divergence in the loss
FAVOURED_SHARE = 0.5  # of the windows begin in CPython's library, whose style the prompts have


def next_token_loss(model: Qwen3ForCausalLM, *, compiled: bool) -> Loss:
    """Mean cross-entropy in nats, matrix products in bf16."""

    def loss(inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        hidden = model.model(input_ids=inputs, use_cache=False).last_hidden_state  # [B, T, d]
        return F.cross_entropy(model.lm_head(hidden).flatten(0, 1), labels.flatten())

    return _in_bf16(loss, compiled=compiled)


def next_token_and_exit_loss(model: Qwen3ForCausalLM, *, compiled: bool) -> Loss:
    """`next_token_loss` + EXIT_SHARE x KL(the end's distribution || the exit's at half depth), in nats."""

    def loss(inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        out = model.model(input_ids=inputs, use_cache=False, output_hidden_states=True)
        logits = model.lm_head(out.last_hidden_state).flatten(0, 1).float()
        early = model.model.norm(out.hidden_states[model.config.num_hidden_layers // 2])
        guessed = model.lm_head(early).flatten(0, 1).float().log_softmax(-1)
        said = logits.detach().log_softmax(-1)
        divergence = F.kl_div(guessed, said, reduction="batchmean", log_target=True)
        return F.cross_entropy(logits, labels.flatten()) + EXIT_SHARE * divergence

    return _in_bf16(loss, compiled=compiled)


def _in_bf16(loss: Loss, *, compiled: bool) -> Loss:
    fast: Loss = torch.compile(loss, dynamic=False) if compiled else loss

    def autocast_loss(inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        with torch.autocast(inputs.device.type, torch.bfloat16):
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


def pretrain(work: Path, plan: Plan, *, start: Path | None = None) -> Trainer:
    """Trains the target, from `start`'s if there is one; its checkpoint is `work`/target.pt."""
    model = start_model(start, "target", target_config())
    model.set_attn_implementation(attention.NAME)
    windows = training_windows(work, seed=1)
    for loss_of, until in ((next_token_loss, EXIT_FROM), (next_token_and_exit_loss, 1.0)):
        trainer = Trainer(model, loss_of(model, compiled=True), windows, plan, work / "target.pt")
        trainer.train(until=until)
    return trainer
