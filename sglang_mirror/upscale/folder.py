"""An enlarged model's folder: a large config, the small weights, the tokenizer; nothing large is written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from sglang_mirror.errors import MirrorError
from sglang_mirror.upscale.shape import ENTRY, Shape
from sglang_mirror.upscale.weights import enlarged

ARCHITECTURE = "Qwen3ForCausalLM"


def enlarged_config(config: dict[str, Any], large: Shape) -> dict[str, Any]:
    """The config of the model enlarged to `large`; it remembers the small shape.

    Raises:
        MirrorError: it is of another architecture, or does not fit; the reasons.
    """
    if config["architectures"] != [ARCHITECTURE]:
        raise MirrorError(f"only {ARCHITECTURE} can be enlarged, found {config['architectures']}")
    small = Shape.of_config(config)
    if reasons := large.holds(small):
        raise MirrorError(f"shape: {'; '.join(reasons)}")
    return {
        **config,
        **asdict(large),
        "rms_norm_eps": config["rms_norm_eps"] * small.hidden_size / large.hidden_size,
        "layer_types": ["full_attention"] * large.num_hidden_layers,
        "tie_word_embeddings": False,
        ENTRY: asdict(small),
    }


def make_folder(source: Path, large: Shape, folder: Path) -> Path:
    """An enlarged model's folder, from a small one's.

    Raises:
        MirrorError: as `enlarged_config`.
    """
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    content = enlarged_config(config, large)
    folder.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        if file.is_file() and file.name != "config.json":
            shutil.copyfile(file, folder / file.name)
    (folder / "config.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return folder


def is_enlarged(folder: Path) -> bool:
    """Whether a model's folder is one that `make_folder` made."""
    config = folder / "config.json"
    return config.is_file() and ENTRY in json.loads(config.read_text(encoding="utf-8"))


def enlarged_weights(
    folder: Path, weights: Iterable[tuple[str, torch.Tensor]]
) -> Iterator[tuple[str, torch.Tensor]]:
    """The large weights of an enlarged model's folder, from the small ones that a loader found in it."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return enlarged(weights, Shape(**config[ENTRY]), Shape.of_config(config))


def load_enlarged(folder: Path, dtype: torch.dtype, **options: Any) -> torch.nn.Module:
    """An enlarged model in transformers.

    Args:
        folder: of the model.
        dtype: of its weights.
        options: further ones of `AutoModelForCausalLM.from_config`.
    """
    from safetensors.torch import load_file  # noqa: PLC0415 - only where models are loaded without SGLang
    from transformers import AutoConfig, AutoModelForCausalLM  # noqa: PLC0415

    with torch.device("meta"):
        config = AutoConfig.from_pretrained(folder)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, **options)
    small = {name: weight.to(dtype) for name, weight in load_file(folder / "model.safetensors").items()}
    model.load_state_dict(dict(enlarged_weights(folder, small.items())), assign=True)
    model.model.rotary_emb = type(model.model.rotary_emb)(config)  # its frequencies are no weights
    loaded: torch.nn.Module = model.eval()
    return loaded
