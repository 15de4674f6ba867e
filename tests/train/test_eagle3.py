"""The head's training imitates its drafting: each step at once over a window, as if token by token."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from sglang_mirror.train.data import Windows
from sglang_mirror.train.eagle3 import Drafted, Eagle3Head, Layer, eagle3_loss, feature_layers, shifted
from sglang_mirror.train.optim import Budget
from sglang_mirror.train.shapes import build
from sglang_mirror.train.trainer import Plan, Trainer
from tests.train.test_trainer import PLAN, windows

__all__ = ["windows"]


def target() -> Qwen3ForCausalLM:
    config = Qwen3Config(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        intermediate_size=48,
        max_position_embeddings=128,
        tie_word_embeddings=True,
    )
    return build(config).eval()


def one_row(
    layer: Layer,
    embed: torch.Tensor,
    feature: torch.Tensor,
    cache: list[tuple[torch.Tensor, torch.Tensor]],
    position: int,
) -> torch.Tensor:
    """One row [width] of ordinary decoding: it sees every row before it and itself."""

    def heads(name: str) -> torch.Tensor:
        return layer.self_attn[name](both).view(-1, layer.head_dim)

    def turned(rows: torch.Tensor) -> torch.Tensor:
        half = layer.head_dim // 2
        angles = position / layer.theta ** (torch.arange(half) / half)
        pairs = torch.complex(rows[:, :half], rows[:, half:]) * torch.polar(torch.ones(half), angles)
        return torch.cat((pairs.real, pairs.imag), -1)

    both = torch.cat((layer.input_layernorm(embed), layer.hidden_norm(feature)))
    cache.append((turned(heads("k_proj")), heads("v_proj")))
    out = []
    for number, query in enumerate(turned(heads("q_proj"))):
        mine = number // (layer.num_heads // layer.num_kv_heads)
        scores = torch.stack([query @ key[mine] for key, _ in cache]) / layer.head_dim**0.5
        out.append(
            sum(share * value[mine] for share, (_, value) in zip(scores.softmax(0), cache, strict=True))
        )
    hidden = feature + layer.self_attn["o_proj"](torch.cat(out))
    normed = layer.post_attention_layernorm(hidden)
    mlp = layer.mlp
    return hidden + mlp["down_proj"](
        torch.nn.functional.silu(mlp["gate_proj"](normed)) * mlp["up_proj"](normed)
    )


@torch.inference_mode()
def test_a_window_at_once_is_token_by_token() -> None:
    """Drafting as it is served: the text row by row, then three tokens on the head's own outputs."""
    model = target()
    head = Eagle3Head(model).eval()
    layer, embedding = head.layers[0], model.model.embed_tokens
    row = torch.randint(0, 64, (12,))
    features = head.features(model.model(row[None, :-1], output_hidden_states=True).hidden_states)
    at_once, drafted = [features], Drafted([], [])
    for step in range(3):
        at_once.append(head.step(shifted(row[None, 1:], step), at_once[-1], drafted))
    for t in range(8):
        cache: list[tuple[torch.Tensor, torch.Tensor]] = []
        for s in range(t + 1):
            said = one_row(layer, embedding(row[s + 1]), features[0, s], cache, s)
        torch.testing.assert_close(at_once[1][0, t], said, atol=1e-5, rtol=1e-4)
        for step in (1, 2):
            said = one_row(layer, embedding(row[t + 1 + step]), said, cache, t + step)
            torch.testing.assert_close(at_once[step + 1][0, t], said, atol=1e-5, rtol=1e-4)


def test_features_are_sglangs() -> None:
    assert feature_layers(8) == (2, 4, 5)


def test_training_lowers_its_loss(windows: Windows, tmp_path: Path) -> None:
    model = target()
    head = Eagle3Head(model)
    assert not any("embed" in name for name in head.state_dict())
    loss = eagle3_loss(head, model, compiled=False)
    rows = windows.batch(99, 8, 16)
    before = loss(rows[:, :-1], rows[:, 1:]).item()
    Trainer(
        head,
        loss,
        windows,
        Plan(Budget(tokens=40 * 64), tokens_per_step=64, window_len=16),
        tmp_path / "h.pt",
    ).train()
    assert loss(rows[:, :-1], rows[:, 1:]).item() < before


@pytest.mark.parametrize("plan", [PLAN])
def test_interrupted_training_goes_on(windows: Windows, tmp_path: Path, plan: Plan) -> None:
    found = []
    for name, parts in (("whole", (None,)), ("parts", (5, None))):
        model = target()
        for steps in parts:
            torch.manual_seed(1)
            head = Eagle3Head(model)
            trainer = Trainer(
                head, eagle3_loss(head, model, compiled=False), windows, plan, tmp_path / f"{name}.pt"
            )
            trainer.train(max_steps=steps)
        found.append(head.state_dict())
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name])
