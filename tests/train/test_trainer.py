"""Training resumes as if it had never stopped, and the schedule does what it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import Qwen3Config, Qwen3ForCausalLM

from sglang_mirror.train.data import TOKEN_DTYPE, Windows
from sglang_mirror.train.distill import MixedWindows, distillation_loss
from sglang_mirror.train.optim import Budget, learning_rate_factor
from sglang_mirror.train.pretrain import next_token_and_exit_loss, next_token_loss
from sglang_mirror.train.shapes import build
from sglang_mirror.train.trainer import Plan, Trainer

PLAN = Plan(Budget(tokens=12 * 64), tokens_per_step=64, window_len=16, long_window_len=32)


def tiny(seed: int = 0, num_layers: int = 1) -> Qwen3ForCausalLM:
    config = Qwen3Config(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=num_layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        intermediate_size=48,
        tie_word_embeddings=True,
    )
    return build(config, seed)


@pytest.fixture
def windows(tmp_path: Path) -> Windows:
    path = tmp_path / "train.bin"
    (np.arange(4000) * 7 % 61).astype(TOKEN_DTYPE).tofile(path)
    return Windows(path, num_favoured=100, favoured_share=0.5)


def trainer_of(windows: Windows, checkpoint: Path) -> Trainer:
    model = tiny()
    return Trainer(model, next_token_loss(model, compiled=False), windows, PLAN, checkpoint)


def test_resuming_equals_never_stopping(windows: Windows, tmp_path: Path) -> None:
    whole = trainer_of(windows, tmp_path / "whole.pt")
    whole.train()
    trainer_of(windows, tmp_path / "parts.pt").train(max_steps=5)
    resumed = trainer_of(windows, tmp_path / "parts.pt")
    assert resumed.step == 5
    resumed.train()
    assert resumed.step == whole.step == 12
    assert resumed.last_loss == pytest.approx(whole.last_loss, abs=1e-6)
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_training_in_two_parts_ends_each_at_its_share(windows: Windows, tmp_path: Path) -> None:
    trainer = trainer_of(windows, tmp_path / "parts.pt")
    trainer.train(until=0.5)
    assert trainer.step == 6
    trainer.train(until=0.5)
    assert trainer.step == 6
    trainer.train()
    assert trainer.step == 12


def test_the_exit_learns_what_the_end_says(windows: Windows, tmp_path: Path) -> None:
    model, alone = tiny(num_layers=2), tiny(num_layers=2)
    loss, without = (next_token_and_exit_loss(model, compiled=False), next_token_loss(alone, compiled=False))
    Trainer(model, loss, windows, PLAN, tmp_path / "exit.pt").train()
    Trainer(alone, without, windows, PLAN, tmp_path / "alone.pt").train()
    rows = windows.batch(99, 8, 16)

    def divergence(of: Qwen3ForCausalLM) -> float:
        with torch.inference_mode():
            out = of.model(input_ids=rows, output_hidden_states=True)
            said = of.lm_head(out.last_hidden_state).flatten(0, 1).log_softmax(-1)
            guessed = of.lm_head(of.model.norm(out.hidden_states[1])).flatten(0, 1).log_softmax(-1)
            return float(F.kl_div(guessed, said, reduction="batchmean", log_target=True))

    assert divergence(model) < divergence(alone)


def test_a_spent_budget_is_not_trained_again(windows: Windows, tmp_path: Path) -> None:
    trainer_of(windows, tmp_path / "done.pt").train()
    again = trainer_of(windows, tmp_path / "done.pt")
    again.train()
    assert again.step == 12


def test_distillation_lowers_its_loss(windows: Windows, tmp_path: Path) -> None:
    draft = tiny(seed=1)
    loss = distillation_loss(draft, tiny(seed=2), compiled=False)
    rows = windows.batch(0, 4, 16)
    before = loss(rows[:, :-1], rows[:, 1:]).item()
    Trainer(draft, loss, windows, PLAN, tmp_path / "draft.pt").train()
    assert loss(rows[:, :-1], rows[:, 1:]).item() < before


def test_windows_depend_on_seed_and_step_only(windows: Windows) -> None:
    assert torch.equal(windows.batch(3, 8, 16), windows.batch(3, 8, 16))
    assert not torch.equal(windows.batch(3, 8, 16), windows.batch(4, 8, 16))


@pytest.mark.parametrize(("share", "num_own"), [(0.5, 2), (0.7, 3)])
def test_mixed_windows_hold_their_share_of_own_text(windows: Windows, share: float, num_own: int) -> None:
    own = torch.full((5, 10), 63)  # 63 is not in the file
    rows = MixedWindows(windows, own, share).batch(0, 4, 16)
    assert rows.shape == (4, 17)
    assert [bool((row == 63).all()) for row in rows] == [False] * (4 - num_own) + [True] * num_own


def test_the_rate_warms_up_stays_and_decays() -> None:
    assert learning_rate_factor(0, 0.0, 0.25) == pytest.approx(1 / 40)
    assert learning_rate_factor(100, 0.5, 0.25) == 1.0
    assert learning_rate_factor(100, 0.875, 0.25) == pytest.approx(0.5)
    assert learning_rate_factor(100, 1.0, 0.25) == 0.0


def test_a_budget_ends_at_whichever_comes_first() -> None:
    assert Budget(tokens=100, seconds=10.0).progress(50, 9.0) == 0.9
    assert Budget(tokens=100).progress(200, 0.0) == 1.0
