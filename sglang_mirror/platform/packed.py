"""Matrix products with weights in oneDNN's packed layout.

torch's own product (MKL) reads the weights slowly when there are a handful of rows, as in a verification, and
on some processors it computes slowly too. On one core of an AMD EPYC in float32, with weights larger than any
cache, a head of 32000 x 1024 takes 3.4 ms instead of 6.2 for one row and 5.4 instead of 19.6 for nine; 5632 x
1024 takes 13 ms instead of 30 for the 256 rows of a prefill.

The packed copy lives beside the layer's own weight, which SGLang updates in place; after an update it is made
anew.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch

# How many rows oneDNN is told to lay a weight out for.
ROWS = 64
# All copies of a process together: what the host can spare beside the weights themselves.
MOST_BYTES = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 8
PACKED = "_mirror_packed"

_updates = 0  # of weights, so far


def around_linear(original: Callable[..., Any], method: Any, layer: Any, x: Any, bias: Any = None) -> Any:
    """AROUND ``UnquantizedLinearMethod.apply``: [rows, in] -> [rows, out]."""
    packed = _packed_weight(layer) if _is_ours(x) else None
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
    packed = _packed_weight(lm_head) if plain and _is_ours(hidden_states) else None
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


def _is_ours(x: torch.Tensor) -> bool:
    return bool(x.dim() == 2 and x.shape[0] and x.dtype == torch.float32)


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
        _copies.drop(held[1] if held else None)
        held = layer.__dict__[PACKED] = (state, _copies.make(weight))
    return held[1]


class _Copies:
    """Makes them, and keeps count of their bytes."""

    def __init__(self) -> None:
        self._num_bytes = 0

    def make(self, weight: torch.Tensor) -> torch.Tensor | None:
        """The weight in oneDNN's layout; None where it cannot be packed, or there is no room for it."""
        if weight.dim() != 2 or weight.dtype != torch.float32 or weight.device.type != "cpu":
            return None
        if self._num_bytes + _num_bytes(weight) > MOST_BYTES:
            return None
        try:
            packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.data, ROWS)
        except (RuntimeError, AttributeError):  # a torch without oneDNN
            return None
        self._num_bytes += _num_bytes(weight)
        return packed

    def drop(self, packed: torch.Tensor | None) -> None:
        """This one is about to be replaced."""
        if packed is not None:
            self._num_bytes -= _num_bytes(packed)


def _num_bytes(weight: torch.Tensor) -> int:
    return int(weight.numel() * weight.element_size())


_copies = _Copies()
