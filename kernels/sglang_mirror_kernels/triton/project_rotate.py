"""From a layer's states to its attention in one launch, one program a head and some rows.

A head's two halves are two products, so that rotary embedding, which turns one half with the other, takes
each from where it is.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sglang_mirror_kernels.rows import Layer, TreeRows
from sglang_mirror_kernels.triton.products import normed_products, tile


@triton.jit(do_not_specialize=["num_rows", "layer"])
def _project_rotate(
    states,
    weight,
    bias,
    norm,
    rope,
    positions,
    memory,
    base,
    capacity,
    slot,
    num_slots,
    query,
    eps,
    num_rows,
    num_heads,
    layer,
    num_layers,
    num_kv_heads,
    dim,
    width,
    BIASED: tl.constexpr,
    NORM: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    AS: tl.constexpr,
):
    head = tl.program_id(0)
    row = tl.program_id(1).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    is_row = row < num_rows
    half, channels = dim // 2, tl.arange(0, COLUMNS)
    is_channel = channels < half
    inside = is_row[:, None] & is_channel[None, :]
    cells = head * dim + channels  # of a weight for each head's channels
    low = weight + cells.to(tl.int64) * width
    first, second = normed_products(
        states + row * width,
        low,
        low + half * width,
        is_row,
        is_channel,
        width,
        eps,
        ROWS,
        COLUMNS,
        DEPTH,
        AS,
    )
    if BIASED:
        first += tl.load(bias + cells, mask=is_channel, other=0.0).to(tl.float32)[None, :]
        second += tl.load(bias + half + cells, mask=is_channel, other=0.0).to(tl.float32)[None, :]
    if head < num_heads + num_kv_heads:
        if NORM:
            size = tl.rsqrt((tl.sum(first * first, 1) + tl.sum(second * second, 1)) / dim + eps)[:, None]
            first *= size * tl.load(norm + cells, mask=is_channel, other=0.0).to(tl.float32)[None, :]
            second *= size * tl.load(norm + half + cells, mask=is_channel, other=0.0).to(tl.float32)[None, :]
        place = tl.load(positions + row, mask=is_row, other=0)
        turn = rope + place[:, None] * 2 * dim + channels[None, :]  # cosines; sines are `dim` behind them
        turned = first * tl.load(turn, mask=inside, other=0.0).to(tl.float32)
        turned += second * tl.load(turn + dim, mask=inside, other=0.0).to(tl.float32)
        second *= tl.load(turn + half, mask=inside, other=0.0).to(tl.float32)
        second += first * tl.load(turn + half + dim, mask=inside, other=0.0).to(tl.float32)
        first = turned
    if head < num_heads:
        out = query + (row[:, None] * num_heads + head) * dim + channels[None, :]
        tl.store(out, first, mask=inside)
        tl.store(out + half, second, mask=inside)
    else:
        is_value = (head >= num_heads + num_kv_heads).to(tl.int64)
        kv_head = head - num_heads - is_value * num_kv_heads
        slots = tl.load(capacity + row, mask=is_row, other=0)
        place = ((is_value * num_layers + layer) * num_kv_heads + kv_head) * slots
        place += tl.load(slot + row, mask=is_row, other=0)
        start = tl.multiple_of(tl.load(base + row, mask=is_row, other=0), 16) + place * dim
        written = inside & (tl.load(num_slots + row, mask=is_row, other=0) > 0)[:, None]
        out = memory + start[:, None] + channels[None, :]
        tl.store(out, first, mask=written)
        tl.store(out + half, second, mask=written)


def project_rotate(
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
    """As `reference.project_rotate`."""
    (num_rows, width), dim = states.shape, rope.shape[-1]
    num_all = weight.shape[0] // dim
    heads = num_all - 2 * layer.num_kv_heads
    assert states.is_contiguous() and weight.is_contiguous() and rope.is_contiguous() and dim % 2 == 0
    query = torch.empty(num_rows, heads, dim, dtype=states.dtype, device=states.device)
    size = tile(states, dim // 2)
    _project_rotate[num_all, triton.cdiv(num_rows, size["ROWS"])](
        states,
        weight,
        weight if bias is None else bias,
        weight if norm is None else norm,
        rope,
        positions,
        memory,
        rows.base,
        rows.capacity,
        rows.slot,
        rows.num_slots,
        query,
        eps,
        num_rows,
        heads,
        layer.index,
        layer.num_layers,
        layer.num_kv_heads,
        dim,
        width,
        BIASED=bias is not None,
        NORM=norm is not None,
        **size,
    )
    return query
