"""A folder is written whole, with the names that engines read, and its card says what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sglang_mirror.train.card import card
from sglang_mirror.train.export import export, load_trained
from sglang_mirror.train.shapes import build, draft_config
from sglang_mirror.train.tokenizer import train_tokenizer

COVERAGE = {"draft": {"1": 0.5, "2": 0.75}, "exit 2": {"1": 0.25, "2": 0.5}}
RESULT = {"temperature": 0.0, "gamma": 5, "steps": 100, "accepted_len": 3.0, "full": 0.25}
MODEL = {
    "num_parameters": 918400,
    "heldout_nats": 2.5,
    "heldout_bits": 1.25,
    "phases": ["distilled: 5 tokens"],
}
REPORT = {
    "num_heldout_tokens": 1000,
    "target": MODEL,
    "draft": MODEL,
    "acceptance": [RESULT | {"at_rejection": COVERAGE, "at_bonus": COVERAGE}],
    "samples": [
        {"id": "a", "source": "Lib/a.py", "prompt": "def f():", "text": "\n    pass", "temperature": 0.0}
    ],
    "packages": [{"package": "rich", "version": "1", "licence": "MIT", "files": 3, "bytes": 10}],
}


def test_export_round_trips_and_replaces(tmp_path: Path) -> None:
    tokenizer = tmp_path / "tokenizer"
    train_tokenizer(["def f(x): return x\n"]).save_pretrained(tokenizer)
    trained = build(draft_config())
    torch.save({"model": trained.state_dict()}, tmp_path / "draft.pt")
    model = load_trained(tmp_path / "draft.pt", draft_config())
    torch.testing.assert_close(dict(model.named_buffers()), dict(trained.named_buffers()), rtol=0, atol=0)
    for text in ("first", "second"):
        export(model, tokenizer, tmp_path / "draft", text)
    assert (tmp_path / "draft" / "README.md").read_text() == "second"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["draft", "draft.pt", "tokenizer"]
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "draft")
    assert loaded.dtype == torch.bfloat16
    torch.testing.assert_close(loaded.float().state_dict(), model.state_dict())
    assert AutoTokenizer.from_pretrained(tmp_path / "draft").chat_template
    config = json.loads((tmp_path / "draft" / "config.json").read_text())
    assert config["rope_theta"] == 10000.0
    assert config["use_cache"] is True


def test_cards_say_what_was_measured() -> None:
    target, draft = card("target", REPORT), card("draft", REPORT)
    for text in (target, draft):
        assert "license: apache-2.0" in text
        assert "| 0 | 5 | 100 | 3.00 | 25% |" in text
        assert "| rich | 1 | MIT | 3 | 0.0 |" in text
        assert "2.500 nats/token, 1.250 bits/byte" in text
    assert "    pass" in target
    assert "    pass" not in draft
