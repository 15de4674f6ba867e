"""What lies between a layer's projections and its attention, one program a row and head."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sglang_mirror_kernels.rows import Layer, TreeRows
from sglang_mirror_kernels.triton.norm import inverse_size


@triton.jit(do_not_specialize=["layer"])
def _rotate(
    qkv,
    norm,
    rope,
    positions,
    memory,
    base,
    capacity,
    slot,
    num_slots,
    query,
    states,
    eps,
    num_heads,
    layer,
    num_layers,
    num_kv_heads,
    dim,
    width,
    NORMED: tl.constexpr,
    NORM: tl.constexpr,
    DIM: tl.constexpr,
):
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    channels = tl.arange(0, DIM)
    is_channel = channels < dim
    source = qkv + (row * (num_heads + 2 * num_kv_heads) + head) * dim
    found = tl.load(source + channels, mask=is_channel, other=0.0).to(tl.float32)
    factor = 1.0
    if not NORMED:
        factor = inverse_size(states + row * width, width, eps)
        found *= factor
    if head < num_heads + num_kv_heads:
        other = (channels + dim // 2) % dim
        across = tl.load(source + other, mask=is_channel, other=0.0).to(tl.float32) * factor
        if NORM:
            size = tl.rsqrt(tl.sum(found * found, 0) / dim + eps)
            found *= size * tl.load(norm + head * dim + channels, mask=is_channel, other=0.0).to(tl.float32)
            across *= size * tl.load(norm + head * dim + other, mask=is_channel, other=0.0).to(tl.float32)
        turn = rope + tl.load(positions + row) * 2 * dim + channels
        cos = tl.load(turn, mask=is_channel, other=0.0).to(tl.float32)
        sin = tl.load(turn + dim, mask=is_channel, other=0.0).to(tl.float32)
        found = found * cos + across * sin
    if head < num_heads:
        tl.store(query + (row * num_heads + head) * dim + channels, found, mask=is_channel)
    elif tl.load(num_slots + row) > 0:
        is_value = (head >= num_heads + num_kv_heads).to(tl.int64)
        kv_head = head - num_heads - is_value * num_kv_heads
        place = ((is_value * num_layers + layer) * num_kv_heads + kv_head) * tl.load(capacity + row)
        place = tl.multiple_of(tl.load(base + row), 16) + (place + tl.load(slot + row)) * dim
        tl.store(memory + place + channels, found, mask=is_channel)


def rotate(
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
    """As `reference.rotate`."""
    num_rows, num_all, dim = qkv.shape
    heads = num_all - 2 * layer.num_kv_heads
    assert qkv.is_contiguous() and rope.is_contiguous() and dim % 2 == 0
    assert states is None or states.is_contiguous()
    query = torch.empty(num_rows, heads, dim, dtype=qkv.dtype, device=qkv.device)
    _rotate[num_rows, num_all](
        qkv,
        qkv if norm is None else norm,
        rope,
        positions,
        memory,
        rows.base,
        rows.capacity,
        rows.slot,
        rows.num_slots,
        query,
        qkv if states is None else states,
        eps,
        heads,
        layer.index,
        layer.num_layers,
        layer.num_kv_heads,
        dim,
        0 if states is None else states.shape[1],
        NORMED=states is None,
        NORM=norm is not None,
        DIM=triton.next_power_of_2(dim),
        num_warps=1,
    )
    return query
