"""The two models' shapes."""

from __future__ import annotations

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from sglang_mirror.train.tokenizer import VOCAB_SIZE


def target_config() -> Qwen3Config:
    """The target: 8 layers, 256 wide, about 6.6M parameters."""
    return _config(hidden_size=256, num_layers=8, num_heads=4, num_kv_heads=2, intermediate_size=640)


def draft_config() -> Qwen3Config:
    """The draft: 2 layers, 128 wide, about 0.9M parameters."""
    return _config(hidden_size=128, num_layers=2, num_heads=2, num_kv_heads=1, intermediate_size=384)


def _config(
    *, hidden_size: int, num_layers: int, num_heads: int, num_kv_heads: int, intermediate_size: int
) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=num_kv_heads,
        head_dim=64,
        intermediate_size=intermediate_size,
        max_position_embeddings=2048,
        rope_theta=10000.0,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
        use_cache=False,
    )


def build(config: Qwen3Config, seed: int = 0) -> Qwen3ForCausalLM:
    """A freshly initialised model in fp32."""
    torch.manual_seed(seed)
    return Qwen3ForCausalLM(config)
