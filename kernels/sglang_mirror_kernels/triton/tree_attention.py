"""Attention of many requests' tree rows in two stages: parts of what a row sees, then their sum.

The second is in `part_sums`.

One program a block of rows, KV head and part. A block's rows share a request, so that each key is read once
for all of them and for all query heads of its KV head. What they see passes by 64 slots at a time, first the
text, which needs no mask, then the tree, a word of bits for each row; with a running maximum and normaliser
(online softmax, as in FlashAttention, arXiv 2205.14135). Every bound is read on the device, so that one
captured launch serves all lengths.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sglang_mirror_kernels.rows import BLOCK_ROWS, WORD_BITS, Layer, TreeRows
from sglang_mirror_kernels.triton.dot import LEAST_DOT, dot_type
from sglang_mirror_kernels.triton.part_sums import clear, sum_if_last, sum_parts

# A single request's 16 rows fill 64 to 128 of a large GPU's multiprocessors, and 1,000 slots are two passes.
PARTS = 8
SPARE_BLOCKS = 4
SLICE_OF_WARP = 512  # numbers of each part that a warp has registers for


@triton.jit(do_not_specialize=["num_rows", "layer"])
def _attend(
    query,
    memory,
    base,
    capacity,
    prefix,
    num_slots,
    seen,
    num_blocks,
    block_first,
    block_len,
    mixed_out,
    highest_out,
    total_out,
    arrived,
    final,
    scale,
    num_rows,
    seen_stride,
    layer,
    num_layers,
    num_kv_heads,
    dim,
    GROUP: tl.constexpr,
    WIDE_GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    DIM: tl.constexpr,
    PARTS: tl.constexpr,
    AS: tl.constexpr,
    MERGED: tl.constexpr,
    SLICE: tl.constexpr,
):
    kv_head, part = tl.program_id(1).to(tl.int64), tl.program_id(2)
    members, channels, bits = tl.arange(0, ROWS * WIDE_GROUP), tl.arange(0, DIM), tl.arange(0, KEYS)
    place, in_group = members // WIDE_GROUP, members % WIDE_GROUP
    is_channel = channels < dim
    for block in range(tl.program_id(0), tl.load(num_blocks).to(tl.int32), tl.num_programs(0)):
        first = tl.load(block_first + block)
        row = first + place
        is_member = (place < tl.load(block_len + block)) & (in_group < GROUP)
        cell = row * num_kv_heads * GROUP + kv_head * GROUP + in_group  # of [rows, heads]
        inside = is_member[:, None] & is_channel[None, :]
        asked = tl.load(query + cell[:, None] * dim + channels[None, :], mask=inside, other=0.0).to(AS)

        head_cells = tl.load(capacity + first) * dim
        keys = (
            memory + tl.multiple_of(tl.load(base + first), 16) + (layer * num_kv_heads + kv_head) * head_cells
        )
        values = keys + num_layers * num_kv_heads * head_cells
        num_text = tl.load(prefix + first).to(tl.int32)
        last = tl.max(tl.load(num_slots + row, mask=is_member, other=0), 0).to(tl.int32)
        text_steps = tl.cdiv(num_text, KEYS)
        num_steps = text_steps + tl.cdiv(last - num_text, KEYS)
        steps = tl.cdiv(num_steps, PARTS)

        highest = tl.full((ROWS * WIDE_GROUP,), float("-inf"), tl.float32)
        total = tl.zeros((ROWS * WIDE_GROUP,), tl.float32)
        mixed = tl.zeros((ROWS * WIDE_GROUP, DIM), tl.float32)
        for step in range(part * steps, tl.minimum((part + 1) * steps, num_steps)):
            word = step - text_steps
            in_tree = word >= 0
            slots = tl.where(in_tree, num_text + word * KEYS, step * KEYS) + bits
            is_slot = slots < tl.where(in_tree, last, num_text)
            cells = slots[:, None] * dim + channels[None, :]
            kept = is_slot[:, None] & is_channel[None, :]
            key = tl.load(keys + cells, mask=kept, other=0.0).to(AS)
            scores = tl.dot(asked, tl.trans(key), input_precision="ieee") * scale
            marks = tl.load(seen + word * seen_stride + row, mask=is_member & in_tree, other=-1)
            visible = ((marks[:, None] >> bits[None, :].to(tl.int64)) & 1) != 0
            scores = tl.where(visible & is_slot[None, :], scores, float("-inf"))
            top = tl.maximum(highest, tl.max(scores, 1))
            level = tl.where(top == float("-inf"), 0.0, top)
            shares = tl.exp(scores - level[:, None])
            fade = tl.exp(highest - level)
            total = total * fade + tl.sum(shares, 1)
            value = tl.load(values + cells, mask=kept, other=0.0).to(AS)
            mixed = mixed * fade[:, None] + tl.dot(shares.to(AS), value, input_precision="ieee")
            highest = top
        out = part.to(tl.int64) * num_rows * num_kv_heads * GROUP + cell
        tl.store(highest_out + out, highest, mask=is_member)
        tl.store(total_out + out, total, mask=is_member)
        tl.store(mixed_out + out[:, None] * dim + channels[None, :], mixed, mask=inside)
        if MERGED:
            num_parts = tl.cdiv(num_steps, steps)  # that saw something
            if part < num_parts:
                sum_if_last(
                    mixed_out,
                    highest_out,
                    total_out,
                    arrived + block * num_kv_heads + kv_head,
                    final,
                    cell,
                    is_member,
                    num_parts,
                    num_rows.to(tl.int64) * num_kv_heads * GROUP,
                    dim,
                    DIM,
                    PARTS,
                    SLICE,
                )
    if MERGED:
        clear(final, num_slots, num_rows, num_kv_heads, dim, GROUP, WIDE_GROUP, ROWS, DIM)


def tree_attention(
    query: torch.Tensor,
    memory: torch.Tensor,
    rows: TreeRows,
    layer: Layer,
    *,
    scale: float,
    arrived: torch.Tensor | None = None,
) -> torch.Tensor:
    """As `select.tree_attention`."""
    num_rows, heads, dim = query.shape
    assert query.is_contiguous() and rows.seen.stride(1) == 1
    assert arrived is None or arrived.numel() >= num_rows * layer.num_kv_heads
    group = heads // layer.num_kv_heads
    wide_group, wide_dim = triton.next_power_of_2(group), max(LEAST_DOT, triton.next_power_of_2(dim))
    like = {"dtype": torch.float32, "device": query.device}
    mixed = torch.empty(PARTS, num_rows, heads, dim, **like)
    highest, total = torch.empty(2, PARTS, num_rows, heads, **like)
    out = torch.empty_like(query)
    num_warps = 4 if wide_group * BLOCK_ROWS <= 64 else 8
    # Enough for one request's blocks, and some for others'. 64 rows may be 64 blocks, of which each program
    # then takes several: those that find nothing to do would cost time in every layer.
    at_once = min(num_rows, triton.cdiv(num_rows, BLOCK_ROWS) + SPARE_BLOCKS)
    _attend[at_once, layer.num_kv_heads, PARTS](
        query,
        memory,
        rows.base,
        rows.capacity,
        rows.prefix,
        rows.num_slots,
        rows.seen,
        rows.num_blocks,
        rows.block_first,
        rows.block_len,
        mixed,
        highest,
        total,
        highest if arrived is None else arrived,
        out,
        scale,
        num_rows,
        rows.seen.stride(0),
        layer.index,
        layer.num_layers,
        layer.num_kv_heads,
        dim,
        GROUP=group,
        WIDE_GROUP=wide_group,
        ROWS=BLOCK_ROWS,
        KEYS=WORD_BITS,
        DIM=wide_dim,
        PARTS=PARTS,
        AS=dot_type(query),
        MERGED=arrived is not None,
        SLICE=max(LEAST_DOT, min(wide_dim, num_warps * SLICE_OF_WARP // (wide_group * BLOCK_ROWS))),
        num_warps=num_warps,
        num_stages=2,
    )
    if arrived is None:
        sum_parts[num_rows, heads](
            mixed,
            highest,
            total,
            rows.num_slots,
            out,
            num_rows,
            heads,
            dim,
            DIM=wide_dim,
            PARTS=PARTS,
            num_warps=1,
        )
    return out
