"""The training loop that both models share: windows, a loss, two optimizers, exactly resuming checkpoints."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from sglang_mirror.train.data import Windows
from sglang_mirror.train.optim import Budget, build_optimizers, learning_rate_factor, set_learning_rate

logger = logging.getLogger(__name__)

Loss = Callable[
    [torch.Tensor, torch.Tensor], torch.Tensor
]  # (inputs [B, T], labels [B, T]) -> mean loss, scalar


@dataclass(frozen=True, slots=True)
class Plan:
    """How one phase trains: `decay_share` of it at a falling rate, the last `long_share` on long windows."""

    budget: Budget
    tokens_per_step: int = 4096
    window_len: int = 512
    long_window_len: int = 1024
    long_share: float = 0.15
    decay_share: float = 0.7
    lr_scale: float = 1.0
    checkpoint_seconds: float = 60.0


class Trainer:
    """Owns a model's optimizers, position and clock; reads `checkpoint` first, and replaces it as it goes.

    It trains where the model's parameters are; a checkpoint goes on on any device.
    Into the file `curve`, if it is given, goes a line every ten steps: step, tokens, loss.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        windows: Windows,
        plan: Plan,
        checkpoint: Path,
        *,
        curve: Path | None = None,
    ) -> None:
        self.model = model
        self.device = next(model.parameters()).device
        self.loss = loss
        self.windows = windows
        self.plan = plan
        self.checkpoint, self.curve = checkpoint, curve
        self.optimizers = build_optimizers(model, plan.lr_scale)
        self.step = 0
        self.tokens = 0
        self.seconds = 0.0
        self.last_loss = float("nan")
        self.compiled_lens: set[int] = set()  # window lengths seen: the first step of each compiles
        if checkpoint.exists():
            self._load()

    @property
    def progress(self) -> float:
        """The share of the budget that is spent, 0 to 1."""
        return self.plan.budget.progress(self.tokens, self.seconds)

    def train(self, max_steps: int | None = None, until: float = 1.0) -> None:
        """Steps until the share `until` of the budget is spent (or for `max_steps`), then saves."""
        self.model.train()
        saved = time.monotonic()
        first = self.step
        while self.progress < until and (max_steps is None or self.step - first < max_steps):
            self._step()
            if time.monotonic() - saved > self.plan.checkpoint_seconds:
                self.save()
                saved = time.monotonic()
        self.save()

    def _step(self) -> None:
        began = time.monotonic()
        factor = learning_rate_factor(self.step, self.progress, self.plan.decay_share)
        is_long = self.progress > 1.0 - self.plan.long_share
        window_len = self.plan.long_window_len if is_long else self.plan.window_len
        num_windows = max(1, self.plan.tokens_per_step // window_len)
        rows = self.windows.batch(self.step, num_windows, window_len).to(self.device)
        set_learning_rate(self.optimizers, factor)
        loss = self.loss(rows[:, :-1], rows[:, 1:])
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.last_loss = loss.item()
        self.step += 1
        self.tokens += rows[:, 1:].numel()
        if window_len in self.compiled_lens:  # else the time went into compiling, which is not the budget's
            self.seconds += time.monotonic() - began
        self.compiled_lens.add(window_len)
        if self.step % 10 == 0:
            if self.curve is not None:
                with self.curve.open("a", encoding="utf-8") as file:
                    file.write(f"{self.step},{self.tokens},{self.last_loss:.6f}\n")
            rate = rows[:, 1:].numel() / (time.monotonic() - began)
            logger.info(
                "step %d  tokens %d  loss %.4f  lr x%.3f  %.0f tokens/s  %.0f s  progress %.3f",
                *(self.step, self.tokens, self.last_loss, factor, rate, self.seconds, self.progress),
            )

    def save(self) -> None:
        """Replaces the checkpoint in one move."""
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        partial = self.checkpoint.with_suffix(".partial")
        state = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "tokens": self.tokens,
            "seconds": self.seconds,
        }
        torch.save(state, partial)
        partial.replace(self.checkpoint)

    def _load(self) -> None:
        # To the CPU: models and optimizers copy from there what they keep on their device, which is not all.
        state = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.tokens, self.seconds = state["step"], state["tokens"], state["seconds"]
        logger.info("resumed %s at step %d, %d tokens", self.checkpoint, self.step, self.tokens)
