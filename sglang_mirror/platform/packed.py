"""Matrix products of few rows with weights in oneDNN's packed layout.

A verification has a handful of rows, for which torch's own product (MKL) reads the weights slowly. On one
core of an AMD EPYC in float32, weights in the third-level cache: 1280 x 256 takes 176 us instead of 334 for 8
rows and 99 instead of 181 for one, a head of 4096 x 256 takes 319 instead of 879 for 8 rows.

The packed copy lives beside the layer's own weight, which SGLang updates in place; after an update it is made
anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

# More rows are a prefill, for which torch's own product is as fast.
MOST_ROWS = 64
# Larger weights are not kept twice.
MOST_BYTES = 32 * 1024 * 1024
PACKED = "_mirror_packed"

_updates = 0  # of weights, so far


def around_linear(original: Callable[..., Any], method: Any, layer: Any, x: Any, bias: Any = None) -> Any:
    """AROUND ``UnquantizedLinearMethod.apply``: [rows, in] -> [rows, out]."""
    packed = _packed_weight(layer) if _has_few_rows(x) else None
    if packed is None:
        return original(method, layer, x, bias)
    return torch.ops.mkldnn._linear_pointwise.default(x, packed, bias, "none", [], "")


def around_head(
    original: Callable[..., Any], processor: Any, hidden_states: Any, lm_head: Any, *args: Any, **kwargs: Any
) -> Any:
    """AROUND ``LogitsProcessor._compute_lm_head``: the same for the LM head, where it is a plain product."""
    bare = all(value is None for value in (*args, *kwargs.values()))  # no bias, no buffer to write to
    on_policy = getattr(processor, "rl_on_policy_target", None) is not None
    plain = bare and not on_policy and not hasattr(lm_head, "apply_lora")
    packed = _packed_weight(lm_head) if plain and _has_few_rows(hidden_states) else None
    if packed is None:
        return original(processor, hidden_states, lm_head, *args, **kwargs)
    return torch.ops.mkldnn._linear_pointwise.default(hidden_states, packed, None, "none", [], "")


def around_update(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """AROUND whatever updates weights: packed copies made before it are stale after it, however it ends."""
    global _updates  # noqa: PLW0603 - weights belong to the process
    try:
        return original(*args, **kwargs)
    finally:
        _updates += 1


def _has_few_rows(x: torch.Tensor) -> bool:
    return bool(x.dim() == 2 and 0 < x.shape[0] <= MOST_ROWS and x.dtype == torch.float32)


def _packed_weight(layer: Any) -> torch.Tensor | None:
    """The layer's weight in oneDNN's layout; None where it is not of a kind to be packed."""
    weight = getattr(layer, "weight", None)
    if weight is None:
        return None
    # A pointer tells a weight that was put in another's place, the version one that was written to openly.
    version = 0 if weight.is_inference() else weight._version
    state = (_updates, weight.data_ptr(), version)
    held: tuple[Any, torch.Tensor | None] | None = layer.__dict__.get(PACKED)
    if held is None or held[0] != state:
        held = layer.__dict__[PACKED] = (state, _pack(weight))
    return held[1]


def _pack(weight: torch.Tensor) -> torch.Tensor | None:
    fits = weight.dim() == 2 and weight.numel() * weight.element_size() <= MOST_BYTES
    if weight.dtype != torch.float32 or weight.device.type != "cpu" or not fits:
        return None
    try:
        packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.data, MOST_ROWS)
    except (RuntimeError, AttributeError):  # a torch without oneDNN
        return None
    return packed
