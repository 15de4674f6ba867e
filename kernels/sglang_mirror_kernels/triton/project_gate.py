"""A layer's gate and up projections and SwiGLU's middle in one launch, one program some columns and rows."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sglang_mirror_kernels.triton.products import normed_products, tile

# A program's, of either product: the 3,072 of a model of 0.6 billion parameters are 96 programs.
NUM_COLUMNS = 32


@triton.jit(do_not_specialize=["num_rows"])
def _project_gate(
    states,
    weight,
    bias,
    out,
    eps,
    num_rows,
    width,
    inner,
    BIASED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    AS: tl.constexpr,
):
    row = tl.program_id(1).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(0).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    is_row, is_column = row < num_rows, column < inner
    low, high = weight + column * width, weight + (column + inner) * width
    gate, up = normed_products(
        states + row * width, low, high, is_row, is_column, width, eps, ROWS, COLUMNS, DEPTH, AS
    )
    if BIASED:
        gate += tl.load(bias + column, mask=is_column, other=0.0).to(tl.float32)[None, :]
        up += tl.load(bias + inner + column, mask=is_column, other=0.0).to(tl.float32)[None, :]
    found = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out + row[:, None] * inner + column, found, mask=is_row[:, None] & is_column[None, :])


def project_gate(
    states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *, eps: float
) -> torch.Tensor:
    """As `reference.project_gate`."""
    assert states.is_contiguous() and weight.is_contiguous()
    (num_rows, width), inner = states.shape, weight.shape[0] // 2
    out = torch.empty(num_rows, inner, dtype=states.dtype, device=states.device)
    size = tile(states, NUM_COLUMNS)
    _project_gate[triton.cdiv(inner, size["COLUMNS"]), triton.cdiv(num_rows, size["ROWS"])](
        states,
        weight,
        weight if bias is None else bias,
        out,
        eps,
        num_rows,
        width,
        inner,
        BIASED=bias is not None,
        **size,
    )
    return out
