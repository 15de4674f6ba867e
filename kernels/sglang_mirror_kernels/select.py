"""Which implementation serves a device: Triton's twin on a GPU, else the reference."""

from __future__ import annotations

import functools
import importlib.util

import torch

from sglang_mirror_kernels import reference


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def exit_topk(logits: torch.Tensor, children: torch.Tensor, kappa: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`reference.exit_topk`, by the implementation for the logits' device."""
    if logits.is_cuda and _has_triton():
        from sglang_mirror_kernels.triton import exit_topk as twin  # noqa: PLC0415 - needs Triton

        return twin.exit_topk(logits, children, kappa)
    return reference.exit_topk(logits, children, kappa)


def promote(kv: torch.Tensor, slots: torch.Tensor, start: int) -> None:
    """`reference.promote`, by the implementation for the cache's device."""
    if kv.is_cuda and _has_triton():
        from sglang_mirror_kernels.triton import promote as twin  # noqa: PLC0415 - needs Triton

        twin.promote(kv, slots, start)
    else:
        reference.promote(kv, slots, start)
