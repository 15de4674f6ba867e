"""The lookahead streams of a streaming draft, as `train.streaming` writes them into a model's folder."""

from __future__ import annotations

from typing import Any

from sglang_mirror.draft.backends.llama_loop import StreamWeights
from sglang_mirror.errors import SettingsError
from sglang_mirror.upscale.folder import enlarged_streams
from sglang_mirror.upscale.shape import ENTRY, STREAMS

# Under these names beside the model's weights, and in that file; `STREAMS` in config.json.
FILE, WEIGHT = "mirror_streams.safetensors", "embeddings"
REMEDY = "make the draft anew with `sglang-mirror train`"


def read_streams(model: str, loaded: Any) -> StreamWeights | None:
    """The streams of a model that has any.

    Args:
        model: its folder or hub name.
        loaded: the model in transformers.

    Raises:
        SettingsError: its config promises streams that its weights or layers do not have.
    """
    entry = getattr(loaded.config, STREAMS, None)
    if entry is None:
        return None
    from safetensors.torch import load_file  # noqa: PLC0415 - with the model only
    from transformers.utils import cached_file  # noqa: PLC0415

    count, num_layers = int(entry["count"]), int(entry["layers"])
    width, small = int(loaded.config.hidden_size), getattr(loaded.config, ENTRY, None)
    wanted = (count, small["hidden_size"] if small else width)
    file = cached_file(model, FILE, _raise_exceptions_for_missing_entries=False)
    if file is None:
        raise SettingsError(
            [f"--model {model}: its config promises {count} streams, and there is no {FILE}; {REMEDY}"]
        )
    found = load_file(file)[WEIGHT]
    if tuple(found.shape) != wanted:
        shape = str(tuple(found.shape))
        raise SettingsError(
            [f"--model {model}: {count} streams need embeddings {wanted}, found {shape}; {REMEDY}"]
        )
    most = int(loaded.config.num_hidden_layers)
    if not 1 <= num_layers <= most:
        raise SettingsError(
            [f"--model {model}: streams in {num_layers} layers, the model has {most}; {REMEDY}"]
        )
    found = enlarged_streams(found, width)
    parameter = next(loaded.parameters())
    return StreamWeights(found.to(parameter.device, parameter.dtype), num_layers)
