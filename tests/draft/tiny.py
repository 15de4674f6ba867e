"""Tiny random checkpoints of several architectures, made in seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

VOCAB = 97

_SMALL: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "mistral": {"sliding_window": 24, "head_dim": 8},
    "gemma2": {
        "sliding_window": 16,
        "head_dim": 8,
        "attn_logit_softcapping": 3.0,
    },
    "gemma3_text": {"sliding_window": 16, "head_dim": 8},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512, "n_inner": 48},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "gpt_neox": {},
    "phi3": {},
    "olmo2": {},
}


# Their configurations know no groups of heads, and would take the word for something else.
WITHOUT_GROUPS = ("gpt2", "opt", "gpt_neox")


def make(architecture: str, folder: Path, *, seed: int = 0, scale: float = 4.0, **changes: Any) -> Path:
    """Write a random checkpoint with a tokenizer file; logits are spread by `scale`."""
    torch.manual_seed(seed)
    options = {**_SMALL, **ARCHITECTURES.get(architecture, {}), **changes}
    if architecture in WITHOUT_GROUPS:
        del options["num_key_value_heads"]
    config = AutoConfig.for_model(architecture, **options)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.15 * (scale if "embed" in name or "wte" in name else 1.0))
            else:  # norms and biases: not the ones and zeros that hide a forgotten weight
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    vocabulary = {f"t{token}": token for token in range(VOCAB)}
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE", "vocab": vocabulary}}))
    return folder
