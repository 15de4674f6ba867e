"""Which implementation serves a device: Triton's twin on a GPU or in its interpreter, else the reference."""

from __future__ import annotations

import functools
import importlib.util
import logging
import os

import torch

from sglang_mirror_kernels import reference
from sglang_mirror_kernels.building import BuildError, building
from sglang_mirror_kernels.rows import Layer, TreeRows

logger = logging.getLogger(__name__)

_unbuilt = set[str]()  # what was tried at the start and has no twin on this host


@functools.cache
def has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


@functools.cache
def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def _twin(tensor: torch.Tensor) -> bool:
    return (tensor.is_cuda or _interpreted()) and has_triton()


def exit_topk(
    logits: torch.Tensor,
    children: torch.Tensor,
    kappa: int,
    out: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`reference.exit_topk`, by the implementation for the logits' device."""
    if _twin(logits):
        from sglang_mirror_kernels.triton import exit_topk as twin  # noqa: PLC0415 - needs Triton

        return twin.exit_topk(logits, children, kappa, out)
    return reference.exit_topk(logits, children, kappa, out)


def promote(kv: torch.Tensor, slots: torch.Tensor, start: int) -> None:
    """`reference.promote`, by the implementation for the cache's device, or what `build_promote` left."""
    if _twin(kv) and "promote" not in _unbuilt:
        from sglang_mirror_kernels.triton import promote as twin  # noqa: PLC0415 - needs Triton

        twin.promote(kv, slots, start)
    else:
        reference.promote(kv, slots, start)


def build_promote(kv: torch.Tensor) -> None:
    """Build the twin of `promote` before it is needed; where that fails, the reference serves from now on.

    Other kernels are built as a graph captures them, and whoever captures it has another way. This one is
    launched by itself.

    Args:
        kv: like the caches to come, with a slot at least; it stays as it is.
    """
    if not _twin(kv):
        return
    try:
        with building():
            promote(kv, torch.zeros(1, dtype=torch.int64, device=kv.device), 0)
    except BuildError as error:
        _unbuilt.add("promote")
        logger.warning("PyTorch moves KV on %s, with more launches a commit: %s", kv.device, error)


def tree_attention(
    query: torch.Tensor,
    memory: torch.Tensor,
    rows: TreeRows,
    layer: Layer,
    *,
    scale: float,
    arrived: torch.Tensor | None = None,
) -> torch.Tensor:
    """`reference.tree_attention`, by the implementation for the query's device.

    Args:
        query: as there, like all but the last.
        memory: as there.
        rows: as there.
        layer: as there.
        scale: as there.
        arrived: zeros, int32 [rows * kv heads] or more, and zeros again afterwards; what has them to itself
            computes in one launch of Triton's instead of two.
    """
    if _twin(query):
        from sglang_mirror_kernels.triton import tree_attention as twin  # noqa: PLC0415 - needs Triton

        return twin.tree_attention(query, memory, rows, layer, scale=scale, arrived=arrived)
    return reference.tree_attention(query, memory, rows, layer, scale=scale)


def rotate(  # noqa: PLR0917 - of a layer, in the order in which it reads them
    qkv: torch.Tensor,
    norm: torch.Tensor | None,
    rope: torch.Tensor,
    positions: torch.Tensor,
    memory: torch.Tensor,
    rows: TreeRows,
    layer: Layer,
    *,
    eps: float,
    states: torch.Tensor | None = None,
) -> torch.Tensor:
    """`reference.rotate`, by the implementation for the rows' device."""
    if _twin(qkv):
        from sglang_mirror_kernels.triton import rotate as twin  # noqa: PLC0415 - needs Triton

        return twin.rotate(qkv, norm, rope, positions, memory, rows, layer, eps=eps, states=states)
    return reference.rotate(qkv, norm, rope, positions, memory, rows, layer, eps=eps, states=states)


def gate(both: torch.Tensor, *, eps: float = 0.0, states: torch.Tensor | None = None) -> torch.Tensor:
    """`reference.gate`, by the implementation for the rows' device."""
    if _twin(both):
        from sglang_mirror_kernels.triton import gate as twin  # noqa: PLC0415 - needs Triton

        return twin.gate(both, eps=eps, states=states)
    return reference.gate(both, eps=eps, states=states)


def project_rotate(  # noqa: PLR0917 - of a layer, in the order in which it reads them
    states: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    norm: torch.Tensor | None,
    rope: torch.Tensor,
    positions: torch.Tensor,
    memory: torch.Tensor,
    rows: TreeRows,
    layer: Layer,
    *,
    eps: float,
) -> torch.Tensor:
    """`reference.project_rotate`, by the implementation for the states' device."""
    if _twin(states):
        from sglang_mirror_kernels.triton import project_rotate as twin  # noqa: PLC0415 - needs Triton

        run = twin.project_rotate
    else:
        run = reference.project_rotate
    return run(states, weight, bias, norm, rope, positions, memory, rows, layer, eps=eps)


def project_gate(
    states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *, eps: float
) -> torch.Tensor:
    """`reference.project_gate`, by the implementation for the states' device."""
    if _twin(states):
        from sglang_mirror_kernels.triton import project_gate as twin  # noqa: PLC0415 - needs Triton

        return twin.project_gate(states, weight, bias, eps=eps)
    return reference.project_gate(states, weight, bias, eps=eps)
