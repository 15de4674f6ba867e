"""The tap's own reading of the head, in part."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from sglang_mirror.engine.tap import Tap
from sglang_mirror.errors import SettingsError

WIDTH, VOCAB = 8, 30


class Block(nn.Module):
    def forward(self, positions: Any, hidden_states: Any, forward_batch: Any, residual: Any) -> Any:
        raise NotImplementedError


def model_with(**processor: Any) -> Any:
    """What the tap asks of SGLang's models."""
    return SimpleNamespace(
        model=SimpleNamespace(layers=[Block(), Block()], norm=nn.Identity()),
        lm_head=nn.Linear(WIDTH, VOCAB, bias=False),
        logits_processor=SimpleNamespace(
            _compute_lm_head=lambda rows, head: rows @ head.weight.T, **processor
        ),
        config=SimpleNamespace(vocab_size=VOCAB),
    )


def test_a_part_of_the_head_gives_the_logits_of_its_tokens() -> None:
    model = model_with(final_logit_softcapping=None, logit_scale=None)
    tap = Tap(model, None)
    tap.limit(10)
    hidden = torch.randn(3, WIDTH)
    torch.testing.assert_close(tap.logits(hidden, None), model.lm_head(hidden)[:, :10])


def test_what_is_done_to_logits_afterwards_forbids_it() -> None:
    with pytest.raises(SettingsError, match=r"--mirror-exit-vocab 10.*logit_scale"):
        Tap(model_with(final_logit_softcapping=None, logit_scale=0.5), None).limit(10)


def test_a_quantized_head_forbids_it() -> None:
    model = model_with()
    model.lm_head = SimpleNamespace(weight=torch.zeros(VOCAB, WIDTH, dtype=torch.int8))
    with pytest.raises(SettingsError, match="quantized"):
        Tap(model, None).limit(10)
