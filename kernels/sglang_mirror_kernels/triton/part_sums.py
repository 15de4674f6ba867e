"""Attention's second stage, the sum of its parts: a launch of its own, or the last act of the first.

A part leaves of each row and head its highest score, the sum of its shares relative to that, and the values
mixed by them.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["num_rows"])
def sum_parts(
    mixed, highest, total, num_slots, out, num_rows, num_heads, dim, DIM: tl.constexpr, PARTS: tl.constexpr
):
    row, head = tl.program_id(0), tl.program_id(1)
    parts, channels = tl.arange(0, PARTS), tl.arange(0, DIM)
    is_row = tl.load(num_slots + row) > 0  # of other rows no part wrote anything
    cell = row.to(tl.int64) * num_heads + head
    cells = parts.to(tl.int64) * num_rows * num_heads + cell
    tops = tl.load(highest + cells, mask=is_row & (parts >= 0), other=float("-inf"))
    alive = tops > float("-inf")
    top = tl.max(tops, 0)
    weights = tl.where(alive, tl.exp(tops - tl.where(top == float("-inf"), 0.0, top)), 0.0)
    whole = tl.sum(weights * tl.load(total + cells, mask=alive, other=0.0), 0)
    inside = alive[:, None] & (channels < dim)[None, :]
    found = tl.load(mixed + cells[:, None] * dim + channels[None, :], mask=inside, other=0.0)
    found = tl.sum(weights[:, None] * found, 0) / tl.where(whole > 0, whole, 1.0)
    tl.store(out + cell * dim + channels, found, mask=channels < dim)


@triton.jit
def sum_if_last(
    mixed,
    highest,
    total,
    turn,
    final,
    cell,
    is_member,
    num_parts,
    apart,
    dim,
    DIM: tl.constexpr,
    PARTS: tl.constexpr,
    SLICE: tl.constexpr,
):
    """Count a part as there, and sum up all if it was the last of them; `apart` cells lie between two.

    They are added in their own order, so the result does not depend on which was the last. Of all parts some
    channels are read at once, as many as there are registers for.
    """
    tl.debug_barrier()  # all of this program's threads have written
    if tl.atomic_add(turn, 1, sem="acq_rel") == num_parts - 1:
        tl.store(turn, 0)  # for the next launch
        top = tl.full(cell.shape, float("-inf"), tl.float32)
        for part in tl.static_range(PARTS):
            is_there = is_member & (part < num_parts)
            at = part * apart + cell
            top = tl.maximum(top, tl.load(highest + at, is_there, float("-inf"), cache_modifier=".cg"))
        level = tl.where(top == float("-inf"), 0.0, top)
        for first in range(0, DIM, SLICE):
            channels = (first + tl.arange(0, SLICE))[None, :]
            whole = tl.zeros(cell.shape, tl.float32)
            found = tl.zeros((cell.shape[0], SLICE), tl.float32)
            for part in tl.static_range(PARTS):
                is_there = is_member & (part < num_parts)
                at = part * apart + cell
                share = tl.exp(tl.load(highest + at, is_there, float("-inf"), cache_modifier=".cg") - level)
                whole += share * tl.load(total + at, is_there, 0.0, cache_modifier=".cg")
                inside = is_there[:, None] & (channels < dim)
                cells = at[:, None] * dim + channels
                found += share[:, None] * tl.load(mixed + cells, inside, 0.0, cache_modifier=".cg")
            found = found / tl.where(whole > 0, whole, 1.0)[:, None]
            kept = is_member[:, None] & (channels < dim)
            tl.store(final + cell[:, None] * dim + channels, found, mask=kept)


@triton.jit
def clear(
    final,
    num_slots,
    num_rows,
    num_kv_heads,
    dim,
    GROUP: tl.constexpr,
    WIDE_GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    DIM: tl.constexpr,
):
    """Zeros for rows that fill up, of which no block knows. There are programs enough for all rows."""
    members, channels = tl.arange(0, ROWS * WIDE_GROUP), tl.arange(0, DIM)
    row, in_group = tl.program_id(0).to(tl.int64) * ROWS + members // WIDE_GROUP, members % WIDE_GROUP
    is_spare = tl.load(num_slots + row, mask=row < num_rows, other=1) == 0
    is_spare &= (in_group < GROUP) & (tl.program_id(2) == 0)
    cell = (row * num_kv_heads + tl.program_id(1)) * GROUP + in_group
    inside = is_spare[:, None] & (channels < dim)[None, :]
    tl.store(final + cell[:, None] * dim + channels[None, :], 0.0, mask=inside)
