"""The draft's training: KL divergence against the target's distribution, plus a little cross-entropy.

Phase 1 runs on the corpus. Phase 2 mixes in the target's own greedy and sampled text, which is what the draft
will be asked to continue: at temperature 0 only the tokens that the target itself writes count.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import Qwen3ForCausalLM

from sglang_mirror.train import attention
from sglang_mirror.train.data import Windows
from sglang_mirror.train.export import load_trained
from sglang_mirror.train.pretrain import training_windows
from sglang_mirror.train.shapes import build, draft_config, target_config
from sglang_mirror.train.trainer import Loss, Plan, Trainer

CROSS_ENTROPY_SHARE = 0.1
OWN_TEXT_SHARE = 0.5  # of the rows of a phase-2 step


def distillation_loss(draft: Qwen3ForCausalLM, target: Qwen3ForCausalLM, *, compiled: bool) -> Loss:
    """KL(target || draft) + CROSS_ENTROPY_SHARE x cross-entropy, in nats per token, products in bf16."""
    target.requires_grad_(False).eval()

    def teach(inputs: torch.Tensor) -> torch.Tensor:
        hidden = target.model(input_ids=inputs, use_cache=False).last_hidden_state
        return target.lm_head(hidden).float().log_softmax(-1).flatten(0, 1)  # [B*T, V]

    def learn(inputs: torch.Tensor, labels: torch.Tensor, taught: torch.Tensor) -> torch.Tensor:
        hidden = draft.model(input_ids=inputs, use_cache=False).last_hidden_state
        logprobs = draft.lm_head(hidden).float().log_softmax(-1).flatten(0, 1)
        divergence = (taught.exp() * (taught - logprobs)).sum(-1).mean()
        return divergence + CROSS_ENTROPY_SHARE * F.nll_loss(logprobs, labels.flatten())

    if compiled:
        teach, learn = torch.compile(teach, dynamic=False), torch.compile(learn, dynamic=False)

    def loss(inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                taught = teach(inputs)
            return learn(inputs, labels, taught)

    return loss


class MixedWindows(Windows):
    """Corpus windows, with OWN_TEXT_SHARE of each step's rows drawn from the target's own text instead."""

    def __init__(self, corpus: Windows, own_text: torch.Tensor) -> None:
        """`own_text`: rows of tokens that the target wrote after a prefix of the corpus, [N, T]."""
        self.corpus = corpus
        self.own_text = own_text

    def batch(self, step: int, num_windows: int, window_len: int) -> torch.Tensor:
        """As Windows.batch, [num_windows, window_len + 1]; a row of own text joins several pieces."""
        num_own = round(num_windows * OWN_TEXT_SHARE)
        rows = self.corpus.batch(step, num_windows - num_own, window_len)
        pieces = -(-(window_len + 1) // self.own_text.shape[1])
        rng = np.random.default_rng((self.corpus.seed, step, 1))
        chosen = torch.from_numpy(rng.integers(0, len(self.own_text), (num_own, pieces)))
        own = self.own_text[chosen].flatten(1)[:, : window_len + 1]
        return torch.cat([rows, own])


def distill(work: Path, plan: Plan, *, compiled: bool = True) -> Trainer:
    """Phase 1: trains (or goes on training) the draft on the corpus; its checkpoint is `work`/draft.pt."""
    draft = build(draft_config())
    return _train(work, draft, training_windows(work, seed=2), plan, "draft.pt", compiled=compiled)


def distill_on_own_text(work: Path, own_text: torch.Tensor, plan: Plan, *, compiled: bool = True) -> Trainer:
    """Phase 2: goes on from phase 1 with the target's own text mixed in; writes `work`/draft_own.pt."""
    draft = build(draft_config())
    draft.load_state_dict(torch.load(work / "draft.pt", weights_only=True)["model"])
    windows = MixedWindows(training_windows(work, seed=3), own_text)
    return _train(work, draft, windows, plan, "draft_own.pt", compiled=compiled)


def _train(
    work: Path, draft: Qwen3ForCausalLM, windows: Windows, plan: Plan, checkpoint: str, *, compiled: bool
) -> Trainer:
    target = load_trained(work / "target.pt", target_config())
    for model in (target, draft):
        model.set_attn_implementation(attention.NAME)
    loss = distillation_loss(draft, target, compiled=compiled)
    trainer = Trainer(draft, loss, windows, plan, work / checkpoint)
    trainer.train()
    return trainer
