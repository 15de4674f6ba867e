"""Masks as bits, one program a block of bytes."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BYTES = 128


@triton.jit
def _pack(mask, packed, num_cells, num_bytes, BYTES: tl.constexpr):
    places = tl.program_id(0) * BYTES + tl.arange(0, BYTES)
    found = tl.zeros((BYTES,), tl.int32)
    for bit in tl.static_range(8):
        cell = places * 8 + bit
        found |= tl.load(mask + cell, mask=cell < num_cells, other=0).to(tl.int32) << bit
    tl.store(packed + places, found.to(tl.uint8), mask=places < num_bytes)


def pack_mask(mask: torch.Tensor) -> torch.Tensor:
    """As `reference.pack_mask`."""
    cells = mask.flatten().to(torch.uint8)
    num_bytes = triton.cdiv(cells.numel(), 8)
    packed = torch.empty(num_bytes, dtype=torch.uint8, device=mask.device)
    _pack[triton.cdiv(num_bytes, BYTES),](cells, packed, cells.numel(), num_bytes, BYTES=BYTES)
    return packed
