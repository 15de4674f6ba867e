"""A model's folder as serving engines read it: bf16 safetensors, config.json and the tokenizer's files."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from sglang_mirror.train.shapes import build
from sglang_mirror.train.tokenizer import CHAT_TEMPLATE, load_tokenizer


def load_trained(checkpoint: Path, config: Qwen3Config) -> Qwen3ForCausalLM:
    """The model of a training checkpoint, rounded to bf16 as it is shipped, held in fp32.

    Its weights only: engines compute the rotary frequencies anew, in fp32, and those round badly.
    """
    model = build(config)
    weights = torch.load(checkpoint, map_location="cpu", weights_only=True)["model"]
    model.load_state_dict({name: weight.to(torch.bfloat16) for name, weight in weights.items()})
    return model.eval()


def export(model: Qwen3ForCausalLM, tokenizer: Path, folder: Path, card: str) -> None:
    """Writes the folder beside itself and swaps it in, so that a reader never finds half of one."""
    with fresh_folder(folder) as partial:
        shipped = build(model.config).to(torch.bfloat16)
        shipped.load_state_dict(model.state_dict())
        shipped.save_pretrained(partial)
        load_tokenizer(tokenizer).save_pretrained(partial)
        _widen(partial, model.config)
        (partial / "README.md").write_text(card)


@contextlib.contextmanager
def fresh_folder(folder: Path) -> Iterator[Path]:
    """An empty folder to write into, which takes `folder`'s place once that has gone well."""
    partial, previous = (folder.with_name(folder.name + suffix) for suffix in (".partial", ".previous"))
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    shutil.rmtree(previous, ignore_errors=True)
    if folder.exists():
        folder.rename(previous)
    partial.rename(folder)
    shutil.rmtree(previous, ignore_errors=True)


def _widen(folder: Path, config: Qwen3Config) -> None:
    """Adds the spellings that older engines read, and drops what this machine's transformers left behind."""
    _update(
        folder / "config.json",
        rope_theta=config.rope_parameters["rope_theta"],
        torch_dtype="bfloat16",
        use_cache=True,
        architectures=["Qwen3ForCausalLM"],
    )
    _update(folder / "generation_config.json", use_cache=True)
    _update(
        folder / "tokenizer_config.json",
        tokenizer_class="PreTrainedTokenizerFast",
        chat_template=CHAT_TEMPLATE,
        backend=None,
        is_local=None,
        local_files_only=None,
    )
    for file in folder.iterdir():
        file.chmod(0o644)


def _update(path: Path, **values: Any) -> None:
    """Sets keys of a JSON file, and drops those whose value is None."""
    merged = json.loads(path.read_text()) | values
    dropped = {key for key, value in values.items() if value is None}
    kept = {key: value for key, value in merged.items() if key not in dropped}
    path.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n")
