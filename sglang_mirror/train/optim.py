"""Optimizers and the learning-rate schedule: Muon for hidden matrices, AdamW for the rest, WSD for both."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn, optim

MUON_LR = 6e-3  # its update has an RMS of 0.2 x lr, as AdamW's
ADAMW_LR = 3e-3
WARMUP_STEPS = 40


@dataclass(frozen=True, slots=True)
class Budget:
    """When training ends: after so many tokens or seconds of training, whichever comes first."""

    tokens: int | None = None
    seconds: float | None = None

    def progress(self, tokens: int, seconds: float) -> float:
        """The share that is spent, 0 to 1."""
        by_tokens = tokens / self.tokens if self.tokens else 0.0
        by_time = seconds / self.seconds if self.seconds else 0.0
        return min(1.0, max(by_tokens, by_time))


def learning_rate_factor(step: int, progress: float, decay_share: float) -> float:
    """Warm up, stay, decay linearly to zero over the last `decay_share` of the budget (WSD)."""
    warmup = min(1.0, (step + 1) / WARMUP_STEPS)
    return warmup * min(1.0, (1.0 - progress) / decay_share)


def build_optimizers(model: nn.Module, scale: float = 1.0) -> list[optim.Optimizer]:
    """Muon over the 2-D matrices of the layers, AdamW over embeddings and norms, rates times `scale`."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    muon = optim.Muon(matrices, lr=MUON_LR * scale, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
    adamw = optim.AdamW(others, lr=ADAMW_LR * scale, betas=(0.9, 0.95), weight_decay=0.0)
    for optimizer in (muon, adamw):
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return [muon, adamw]


def set_learning_rate(optimizers: list[optim.Optimizer], factor: float) -> None:
    """Sets every group to its peak rate times `factor`."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
