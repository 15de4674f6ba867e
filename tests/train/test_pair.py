"""The pair and the prompts as they are shipped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sglang_mirror.train import heldout
from sglang_mirror.train.corpus import is_heldout
from sglang_mirror.train.evaluate import acceptance

EXAMPLES = Path(__file__).parents[2] / "examples"
MODELS = EXAMPLES / "models"
PROMPTS = EXAMPLES / "data" / "heldout.jsonl"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def test_the_pair_is_small_and_shares_its_tokenizer() -> None:
    files = [file for role in ("target", "draft") for file in (MODELS / role).iterdir()]
    assert sum(file.stat().st_size for file in files) <= 16_000_000
    for name in TOKENIZER_FILES:
        assert (MODELS / "target" / name).read_bytes() == (MODELS / "draft" / name).read_bytes()


@pytest.mark.parametrize("role", ["target", "draft"])
def test_the_folder_names_what_engines_look_for(role: str) -> None:
    config = json.loads((MODELS / role / "config.json").read_text())
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    assert config["torch_dtype"] == config["dtype"] == "bfloat16"
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 10000.0
    assert config["tie_word_embeddings"] is True
    assert config["vocab_size"] == 4096


def test_the_pair_loads_and_the_draft_is_worth_having() -> None:
    torch.set_grad_enabled(True)
    pair = [
        AutoModelForCausalLM.from_pretrained(MODELS / role).float().eval() for role in ("target", "draft")
    ]
    target, draft = pair
    assert target.num_parameters() > 6 * draft.num_parameters()
    tokenizer = AutoTokenizer.from_pretrained(MODELS / "target")
    prompts = [tokenizer.encode(p["prompt"]) for p in heldout.read(PROMPTS)[:3]]
    (result,) = acceptance(target, draft, prompts, gammas=[5], temperature=0.0, num_tokens=48)
    assert result["accepted_len"] > 1.8


def test_prompts_are_held_out_and_well_formed() -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODELS / "target")
    prompts = heldout.read(PROMPTS)
    assert sum(p["long"] for p in prompts) == heldout.NUM_LONG
    assert sum(not p["long"] for p in prompts) == heldout.NUM_SHORT
    assert len({p["id"] for p in prompts}) == len({p["prompt"] for p in prompts}) == len(prompts)
    for p in prompts:
        assert set(p) == {"id", "source", "licence", "prompt", "reference", "long"}
        assert is_heldout(p["source"])
        assert p["licence"] == "PSF-2.0"
        low, high = heldout.LONG_TOKENS if p["long"] else heldout.SHORT_TOKENS
        assert low <= len(tokenizer.encode(p["prompt"])) <= high
        assert p["reference"].startswith("\n")
        assert not p["prompt"].endswith("\n")
