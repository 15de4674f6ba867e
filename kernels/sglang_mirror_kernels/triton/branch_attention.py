"""The draft's attention: rows of a request's tree over its text, which all see, and over the tree, by a mask.

One program a head and block of rows; keys pass by in blocks, with a running maximum and normaliser (online
softmax, as in FlashAttention, arXiv 2205.14135).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

ROWS, KEYS = 16, 64


@triton.jit
def _attend(
    query,
    keys,
    values,
    seen,
    out,
    scale,
    num_rows,
    num_slots,
    prefix,
    dim,
    query_stride,
    key_stride,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    DIM: tl.constexpr,
):
    head, first = tl.program_id(0).to(tl.int64), tl.program_id(1) * ROWS
    rows, channels = first + tl.arange(0, ROWS), tl.arange(0, DIM)
    is_row, is_channel = rows < num_rows, channels < dim
    inside = is_row[:, None] & is_channel[None, :]
    places = rows[:, None] * dim + channels[None, :]
    asked = tl.load(query + head * query_stride + places, mask=inside, other=0.0).to(tl.float32)
    highest = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    mixed = tl.zeros((ROWS, DIM), tl.float32)
    kv_head = head // GROUP
    tree = num_slots - prefix
    for start in range(0, num_slots, KEYS):
        slots = start + tl.arange(0, KEYS)
        is_slot = slots < num_slots
        cells = kv_head * key_stride + slots[:, None] * dim + channels[None, :]
        kept = is_slot[:, None] & is_channel[None, :]
        key = tl.load(keys + cells, mask=kept, other=0.0).to(tl.float32)
        scores = tl.sum(asked[:, None, :] * key[None, :, :], 2) * scale
        in_tree = is_slot & (slots >= prefix)
        marks = tl.load(
            seen + rows[:, None] * tree + (slots - prefix)[None, :],
            mask=is_row[:, None] & in_tree[None, :],
            other=0,
        )
        visible = (slots < prefix)[None, :] | (marks != 0)
        scores = tl.where(visible & is_slot[None, :], scores, float("-inf"))
        top = tl.maximum(highest, tl.max(scores, 1))
        base = tl.where(top == float("-inf"), 0.0, top)
        shares = tl.exp(scores - base[:, None])
        fade = tl.exp(highest - base)
        total = total * fade + tl.sum(shares, 1)
        value = tl.load(values + cells, mask=kept, other=0.0).to(tl.float32)
        mixed = mixed * fade[:, None] + tl.sum(shares[:, :, None] * value[None, :, :], 1)
        highest = top
    mixed = mixed / tl.where(total > 0, total, 1.0)[:, None]
    tl.store(out + head * num_rows * dim + places, mixed, mask=inside)


def branch_attention(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    seen: torch.Tensor,
    *,
    scale: float,
) -> torch.Tensor:
    """As `reference.branch_attention`."""
    heads, num_rows, dim = query.shape
    kv_heads, num_slots, _ = keys.shape
    assert keys.stride() == values.stride() and keys.stride(1) == dim
    query, seen = query.contiguous(), seen.to(torch.uint8).contiguous()
    out = torch.empty_like(query)
    _attend[heads, triton.cdiv(num_rows, ROWS)](
        query,
        keys,
        values,
        seen,
        out,
        scale,
        num_rows,
        num_slots,
        num_slots - seen.shape[1],
        dim,
        query.stride(0),
        keys.stride(0),
        GROUP=heads // kv_heads,
        ROWS=ROWS,
        KEYS=KEYS,
        DIM=triton.next_power_of_2(dim),
    )
    return out
