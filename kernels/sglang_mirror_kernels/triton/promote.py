"""Promotion of KV: what survived a commit moves together, all layers and heads at once."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


# How much survives differs from commit to commit, and none of them waits for a compiler.
@triton.jit(do_not_specialize=["num_slots"])
def _gather(source, slots, target, num_slots, source_stride, dim, DIM: tl.constexpr):
    head, place = tl.program_id(0).to(tl.int64), tl.program_id(1)
    channels = tl.arange(0, DIM)
    slot = tl.load(slots + place)
    row = tl.load(source + head * source_stride + slot * dim + channels, mask=channels < dim)
    tl.store(target + (head * num_slots + place) * dim + channels, row, mask=channels < dim)


def promote(kv: torch.Tensor, slots: torch.Tensor, start: int) -> None:
    """As `reference.promote`. Sources and destinations overlap, so they are gathered beside it first."""
    if not slots.numel():
        return
    heads = kv.view(-1, *kv.shape[-2:])  # [2 * layers * kv heads, capacity, head dim]
    num_slots, dim = slots.numel(), kv.shape[-1]
    moved = torch.empty(heads.shape[0], num_slots, dim, dtype=kv.dtype, device=kv.device)
    _gather[heads.shape[0], num_slots](
        heads, slots, moved, num_slots, heads.stride(0), dim, DIM=triton.next_power_of_2(dim)
    )
    heads[:, start : start + num_slots] = moved
