"""What Triton's products ask for."""

from __future__ import annotations

import torch
import triton.language as tl

LEAST_DOT = 16  # their smallest side


def dot_type(tensor: torch.Tensor) -> tl.dtype:
    """Of the factors of a product of such tensors; the interpreter has no products in half precision."""
    if tensor.dtype == torch.float32 or not tensor.is_cuda:
        return tl.float32
    return tl.bfloat16 if tensor.dtype == torch.bfloat16 else tl.float16
