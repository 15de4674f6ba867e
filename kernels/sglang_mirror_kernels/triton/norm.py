"""RMSNorm as a factor for each row, which whoever reads a row's projection computes along with it."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def inverse_size(row, width, eps, SIZE: tl.constexpr = 1024):
    """1 / sqrt(mean of squares + eps) of `width` numbers from `row` on."""
    squares = tl.zeros([SIZE], tl.float32)
    for first in range(0, width, SIZE):
        places = first + tl.arange(0, SIZE)
        found = tl.load(row + places, mask=places < width, other=0.0).to(tl.float32)
        squares += found * found
    return tl.rsqrt(tl.sum(squares, 0) / width + eps)
