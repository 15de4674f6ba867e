"""Training goes on from a shipped pair: the same numbers at its first step, the same history on its card."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from sglang_mirror.train.shapes import build, draft_config
from sglang_mirror.train.start import phases_so_far, start_model

MODELS = Path(__file__).parents[2] / "examples" / "models"


def test_a_pair_to_go_on_from_gives_its_weights() -> None:
    started = start_model(MODELS, "draft", draft_config())
    shipped = AutoModelForCausalLM.from_pretrained(MODELS / "draft").float()
    torch.testing.assert_close(started.state_dict(), shipped.state_dict())
    assert next(started.parameters()).dtype == torch.float32


def test_without_one_training_begins_anew() -> None:
    torch.testing.assert_close(
        start_model(None, "draft", draft_config()).state_dict(), build(draft_config()).state_dict()
    )
    assert phases_so_far(None, "draft") == []


def test_the_card_hands_its_history_on() -> None:
    phases = phases_so_far(MODELS, "target")
    assert phases
    assert all("tokens" in phase or "settings" in phase for phase in phases)
    assert not any(phase.startswith(("parameters", "held-out")) for phase in phases)
