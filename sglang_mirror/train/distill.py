"""The draft's training: KL divergence against the target's distribution, plus a little cross-entropy.

The first phase runs on the corpus. The others mix in the target's own greedy and sampled text, which is what
the draft will be asked to continue: at temperature 0 only the tokens that the target itself writes count.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import Qwen3ForCausalLM

from sglang_mirror.train import attention
from sglang_mirror.train.data import Windows
from sglang_mirror.train.export import load_trained
from sglang_mirror.train.pretrain import training_windows
from sglang_mirror.train.shapes import draft_config, target_config
from sglang_mirror.train.start import start_model
from sglang_mirror.train.trainer import Loss, Plan, Trainer

CROSS_ENTROPY_SHARE = 0.1


def distillation_loss(draft: Qwen3ForCausalLM, target: Qwen3ForCausalLM, *, compiled: bool) -> Loss:
    """KL(target || draft) + CROSS_ENTROPY_SHARE x cross-entropy, in nats per token, products in bf16."""
    target.requires_grad_(False).eval()

    def teach(inputs: torch.Tensor) -> torch.Tensor:
        hidden = target.model(input_ids=inputs, use_cache=False).last_hidden_state
        return target.lm_head(hidden).float().log_softmax(-1).flatten(0, 1)  # [B*T, V]

    def learn(inputs: torch.Tensor, labels: torch.Tensor, taught: torch.Tensor) -> torch.Tensor:
        hidden = draft.model(input_ids=inputs, use_cache=False).last_hidden_state
        logprobs = draft.lm_head(hidden).float().log_softmax(-1).flatten(0, 1)
        divergence = F.kl_div(logprobs, taught, reduction="batchmean", log_target=True)
        return divergence + CROSS_ENTROPY_SHARE * F.nll_loss(logprobs, labels.flatten())

    if compiled:
        teach, learn = torch.compile(teach, dynamic=False), torch.compile(learn, dynamic=False)

    def loss(inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        with torch.autocast(inputs.device.type, torch.bfloat16):
            with torch.no_grad():
                taught = teach(inputs)
            return learn(inputs, labels, taught)

    return loss


class MixedWindows(Windows):
    """Corpus windows, with `share` of each step's rows drawn from the target's own text instead."""

    def __init__(self, corpus: Windows, own_text: torch.Tensor, share: float) -> None:
        """`own_text`: rows of tokens that the target wrote after a prefix of the corpus, [N, T]."""
        self.corpus = corpus
        self.own_text = own_text
        self.share = share

    def batch(self, step: int, num_windows: int, window_len: int) -> torch.Tensor:
        """As Windows.batch, [num_windows, window_len + 1]; a row of own text joins several pieces."""
        num_own = round(num_windows * self.share)
        rows = self.corpus.batch(step, num_windows - num_own, window_len)
        pieces = -(-(window_len + 1) // self.own_text.shape[1])
        rng = np.random.default_rng((self.corpus.seed, step, 1))
        chosen = torch.from_numpy(rng.integers(0, len(self.own_text), (num_own, pieces)))
        own = self.own_text[chosen].flatten(1)[:, : window_len + 1]
        return torch.cat([rows, own])


@dataclass(frozen=True, slots=True)
class Phase:
    """One part of the draft's training.

    Attributes:
        name: as the card calls it.
        share: of the draft's time.
        own_text_share: of each step's rows, taken from text that the target wrote itself.
        lr_scale: of the learning rates.
        decay_share: of the phase, in which they fall.
    """

    name: str
    share: float
    own_text_share: float
    lr_scale: float
    decay_share: float


PHASES = (
    Phase("distilled from the target on the corpus", 0.2, 0.0, 1.0, 0.5),
    Phase("then half on text that the target wrote itself", 0.3, 0.5, 1.0, 0.8),
    Phase("then 70% on more such text, at 0.6 of the rate", 0.3, 0.7, 0.6, 0.8),
)


def distill(
    work: Path,
    number: int,
    plan: Plan,
    own_text: torch.Tensor | None = None,
    *,
    start: Path | None = None,
) -> Trainer:
    """Trains the draft through phase `number` of PHASES; its checkpoint is `checkpoint(work, number)`.

    It goes on from the phase before; the first one from the pair in `start`, if there is one.
    """
    draft = start_model(start, "draft", draft_config())
    if number:
        state = torch.load(checkpoint(work, number - 1), map_location="cpu", weights_only=True)
        draft.load_state_dict(state["model"])
    windows = training_windows(work, seed=2 + number)
    if own_text is not None:
        windows = MixedWindows(windows, own_text, PHASES[number].own_text_share)
    target = load_trained(work / "target.pt", target_config())
    for model in (target, draft):
        model.set_attn_implementation(attention.NAME)
    loss = distillation_loss(draft, target, compiled=True)
    trainer = Trainer(draft, loss, windows, plan, checkpoint(work, number))
    trainer.train()
    return trainer


def checkpoint(work: Path, number: int) -> Path:
    """Where phase `number` of the draft's training keeps what it has."""
    return work / f"draft-{number}.pt"
