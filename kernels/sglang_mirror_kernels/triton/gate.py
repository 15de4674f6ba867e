"""SwiGLU's middle: one pass over what two operations would write and read again."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sglang_mirror_kernels.triton.norm import inverse_size

BLOCK = 1024


@triton.jit
def _gate(both, out, states, eps, width, states_width, NORMED: tl.constexpr, SIZE: tl.constexpr):
    row, places = tl.program_id(0).to(tl.int64), tl.program_id(1) * SIZE + tl.arange(0, SIZE)
    inside = places < width
    gate = tl.load(both + row * 2 * width + places, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(both + (row * 2 + 1) * width + places, mask=inside, other=0.0).to(tl.float32)
    if not NORMED:
        factor = inverse_size(states + row * states_width, states_width, eps)
        gate, up = gate * factor, up * factor
    tl.store(out + row * width + places, gate / (1.0 + tl.exp(-gate)) * up, mask=inside)


def gate(both: torch.Tensor, *, eps: float = 0.0, states: torch.Tensor | None = None) -> torch.Tensor:
    """As `reference.gate`."""
    assert both.is_contiguous() and (states is None or states.is_contiguous())
    rows, width = both.shape[0], both.shape[1] // 2
    out = torch.empty(rows, width, dtype=both.dtype, device=both.device)
    given = both if states is None else states
    grid = rows, triton.cdiv(width, BLOCK)
    _gate[grid](both, out, given, eps, width, given.shape[1], NORMED=states is None, SIZE=BLOCK)
    return out
