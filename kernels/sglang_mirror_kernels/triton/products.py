"""Two products of the same rows, which are normed on the way: how either half of a block begins.

The weights pass by once, together with the rows. A row's norm is a factor of all its products, known when the
last of its states has passed, so it takes no launch of its own.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import triton
import triton.language as tl

from sglang_mirror_kernels.triton.dot import LEAST_DOT, dot_type

MOST_ROWS = 64  # of a program; more rows read the weights again, from the GPU's cache
DEPTH_BYTES = (256, 128, 64)  # of a row that pass at a time: as many as there is room for
STAGES = 4  # of these on their way: some 32 programs have to keep the whole memory busy
LEFT_FREE = 4096  # bytes of shared memory, for what threads exchange
FEW_SUMS = 4096  # numbers that four warps can add up in their registers


def tile(states: torch.Tensor, num_columns: int) -> dict[str, Any]:
    """What a program computes at a time, and with how much: constants and options of its kernel.

    Args:
        states: [rows, width].
        num_columns: of either product.
    """
    rows = min(MOST_ROWS, max(LEAST_DOT, triton.next_power_of_2(states.shape[0])))
    columns = max(LEAST_DOT, triton.next_power_of_2(num_columns))
    room = _shared_bytes(states.device) - LEFT_FREE
    for num_bytes in DEPTH_BYTES:
        stages = room // ((rows + 2 * columns) * num_bytes)
        if stages > STAGES // 2:
            break
    return {
        "ROWS": rows,
        "COLUMNS": columns,
        "DEPTH": num_bytes // states.element_size(),
        "AS": dot_type(states),
        "num_warps": 4 if rows * 2 * columns <= FEW_SUMS else 8,
        "num_stages": max(1, min(stages, STAGES)),
    }


@functools.cache
def _shared_bytes(device: torch.device) -> int:
    """Of one program."""
    if device.type != "cuda":
        return 1 << 20  # the interpreter's is not bounded
    return int(torch.cuda.get_device_properties(device).shared_memory_per_block_optin)


@triton.jit
def normed_products(
    states,
    first,
    second,
    is_row,
    is_column,
    width,
    eps,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    AS: tl.constexpr,
):
    """RMSNorm of the states times two weights, twice float32 [ROWS, COLUMNS].

    `states` points to each row, `first` and `second` to each column's weights; `width` numbers from there on.
    """
    one = tl.zeros((ROWS, COLUMNS), tl.float32)
    other = tl.zeros((ROWS, COLUMNS), tl.float32)
    squares = tl.zeros((ROWS,), tl.float32)
    for start in range(0, width, DEPTH):
        at = start + tl.arange(0, DEPTH)
        inside = at < width
        state = tl.load(states[:, None] + at[None, :], mask=is_row[:, None] & inside[None, :], other=0.0)
        kept = is_column[:, None] & inside[None, :]
        first_weight = tl.load(first[:, None] + at[None, :], mask=kept, other=0.0)
        second_weight = tl.load(second[:, None] + at[None, :], mask=kept, other=0.0)
        wide = state.to(tl.float32)
        squares += tl.sum(wide * wide, 1)
        one += tl.dot(state.to(AS), tl.trans(first_weight.to(AS)), input_precision="ieee")
        other += tl.dot(state.to(AS), tl.trans(second_weight.to(AS)), input_precision="ieee")
    factor = tl.rsqrt(squares / width + eps)[:, None]
    return one * factor, other * factor
