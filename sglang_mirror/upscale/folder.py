"""Folders of enlarged models: a large config, the small weights, the tokenizer; nothing large is written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from sglang_mirror.errors import MirrorError
from sglang_mirror.upscale.shape import ENTRY, STREAMS, Shape, live_layers
from sglang_mirror.upscale.weights import enlarged

ARCHITECTURE = "Qwen3ForCausalLM"
HEAD_ARCHITECTURE = "LlamaForCausalLMEagle3"


def enlarged_config(config: dict[str, Any], large: Shape, architecture: str = ARCHITECTURE) -> dict[str, Any]:
    """The config of the model enlarged to `large`; it remembers the small shape.

    Raises:
        MirrorError: it is of another architecture, or does not fit; the reasons.
    """
    if config["architectures"] != [architecture]:
        raise MirrorError(f"only {architecture} can be enlarged, found {config['architectures']}")
    small = Shape.of_config(config)
    if reasons := large.holds(small):
        raise MirrorError(f"shape: {'; '.join(reasons)}")
    streams = config.get(STREAMS)
    if streams:  # they begin before the same live layer, whatever stands between and above
        first = live_layers(small, large)[small.num_hidden_layers - streams["layers"]]
        config = {**config, STREAMS: {**streams, "layers": large.num_hidden_layers - first}}
    return {
        **config,
        **asdict(large),
        "rms_norm_eps": config["rms_norm_eps"] * small.hidden_size / large.hidden_size,
        "tie_word_embeddings": False,
        ENTRY: asdict(small),
    }


def make_folder(source: Path, large: Shape, folder: Path) -> Path:
    """An enlarged model's folder, from a small one's.

    Raises:
        MirrorError: as `enlarged_config`.
    """
    config = enlarged_config(_config(source), large)
    return _write(source, {**config, "layer_types": ["full_attention"] * large.num_hidden_layers}, folder)


def make_head_folder(source: Path, target: Path, folder: Path) -> Path:
    """The folder of an EAGLE3 head for an enlarged target: one layer of the target's sizes.

    Args:
        source: the head of the small target, in the form that SGLang loads.
        target: the enlarged target's folder.
        folder: where it goes.

    Raises:
        MirrorError: as `enlarged_config`.
    """
    of_target = _config(target)
    large, small = Shape.of_config(of_target), Shape(**of_target[ENTRY])
    config = enlarged_config(_config(source), replace(large, num_hidden_layers=1), HEAD_ARCHITECTURE)
    # SGLang counts from 0 and reads what such a layer leaves; by default it reads after these many layers.
    read_after = (2, small.num_hidden_layers // 2, small.num_hidden_layers - 3)
    places = live_layers(small, large)
    config["eagle_config"] = {"eagle_aux_hidden_state_layer_ids": [places[layer] - 1 for layer in read_after]}
    return _write(source, {**config, "draft_vocab_size": large.vocab_size}, folder)


def _config(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return content


def _write(source: Path, config: dict[str, Any], folder: Path) -> Path:
    """A folder like `source` with another config."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        if file.is_file() and file.name != "config.json":
            shutil.copyfile(file, folder / file.name)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return folder


def is_enlarged(folder: Path) -> bool:
    """Whether a model's folder is one that `make_folder` made."""
    return (folder / "config.json").is_file() and ENTRY in _config(folder)


def enlarged_weights(
    folder: Path, weights: Iterable[tuple[str, torch.Tensor]], device: torch.device | str | None = None
) -> Iterator[tuple[str, torch.Tensor]]:
    """The large weights of an enlarged model's folder, from the small ones that a loader found in it.

    Args:
        folder: of the model.
        weights: the small ones.
        device: where the large ones are made; None: on the current CUDA device, where there is one, as 14B
            take minutes on a CPU and the loader copies them there anyway; else where the small ones are.
    """
    config = _config(folder)
    if device is None and torch.cuda.is_available():
        device = torch.device("cuda", torch.cuda.current_device())
    return enlarged(weights, Shape(**config[ENTRY]), Shape.of_config(config), device)


def enlarged_streams(embeddings: torch.Tensor, width: int) -> torch.Tensor:
    """What makes streams of an enlarged draft's main stream, [count, width], from the small draft's."""
    return torch.nn.functional.pad(embeddings, (0, width - embeddings.shape[1]))


def load_enlarged(
    folder: Path, dtype: torch.dtype, *, device: torch.device | str = "cpu", **options: Any
) -> torch.nn.Module:
    """An enlarged model in transformers.

    Args:
        folder: of the model.
        dtype: of its weights.
        device: where they are made.
        options: further ones of `AutoModelForCausalLM.from_config`.
    """
    from safetensors.torch import load_file  # noqa: PLC0415 - only where models are loaded without SGLang
    from transformers import AutoConfig, AutoModelForCausalLM  # noqa: PLC0415

    with torch.device("meta"):
        config = AutoConfig.from_pretrained(folder)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, **options)
    weights = enlarged_weights(folder, load_file(folder / "model.safetensors").items(), device)
    model.load_state_dict({name: weight.to(dtype) for name, weight in weights}, assign=True)
    rotary = type(model.model.rotary_emb)(config)  # its frequencies are no weights
    model.model.rotary_emb = rotary.to(device)
    loaded: torch.nn.Module = model.eval()
    return loaded
