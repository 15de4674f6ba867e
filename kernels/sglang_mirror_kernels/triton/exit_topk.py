"""The early exit's candidates in two stages: each block's best, then the best of those.

Nothing of the vocabulary's size is written: a block of it is read once, and leaves its kappa largest logits
and what it adds to the normaliser.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK = 4096
# In place of minus infinity, which places without a token have.
FORBIDDEN = tl.constexpr(-3.4e38)


@triton.jit
def _best_of_block(
    logits,
    children,
    values,
    tokens,
    highest,
    total,
    num_logits,
    stride,
    num_blocks,
    NUM_CHILDREN: tl.constexpr,
    KAPPA: tl.constexpr,
    SIZE: tl.constexpr,
):
    row, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    places = tl.arange(0, SIZE)
    ids = block * SIZE + places
    is_real = ids < num_logits
    found = tl.load(logits + row * stride + ids, mask=is_real, other=float("-inf")).to(tl.float32)
    # Beside a NaN the largest may be a place behind the last token.
    number = tl.where(found == found, found, float("-inf"))  # noqa: PLR0124 - NaN
    top = tl.max(number, 0)
    base = tl.where(top == float("-inf"), 0.0, top)  # a block may be forbidden as a whole
    cell = row * num_blocks + block
    tl.store(highest + cell, top)
    tl.store(total + cell, tl.sum(tl.exp(found - base), 0))
    # A forbidden token comes before what is none: there may be no other.
    found = tl.where(is_real, tl.maximum(number, FORBIDDEN), float("-inf"))
    for child in tl.static_range(NUM_CHILDREN):
        own = tl.load(children + row * NUM_CHILDREN + child)
        found = tl.where(ids == own, float("-inf"), found)
    for rank in tl.static_range(KAPPA):
        value, best = tl.max(found, 0, return_indices=True)
        tl.store(values + cell * KAPPA + rank, value)
        tl.store(tokens + cell * KAPPA + rank, (block * SIZE + best).to(tl.int64))
        found = tl.where(places == best, float("-inf"), found)


@triton.jit
def _best_of_row(
    values,
    tokens,
    highest,
    total,
    found_tokens,
    found_logprobs,
    num_blocks,
    num_values,
    KAPPA: tl.constexpr,
    BLOCKS: tl.constexpr,
    VALUES: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    blocks = tl.arange(0, BLOCKS)
    tops = tl.load(highest + row * num_blocks + blocks, mask=blocks < num_blocks, other=float("-inf"))
    sums = tl.load(total + row * num_blocks + blocks, mask=blocks < num_blocks, other=0.0)
    top = tl.max(tops, 0)
    normaliser = top + tl.log(tl.sum(tl.where(sums == 0, 0.0, sums * tl.exp(tops - top)), 0))
    places = tl.arange(0, VALUES)
    found = tl.load(values + row * num_values + places, mask=places < num_values, other=float("-inf"))
    for rank in tl.static_range(KAPPA):
        value, best = tl.max(found, 0, return_indices=True)
        token = tl.load(tokens + row * num_values + best)
        tl.store(found_tokens + row * KAPPA + rank, token)
        logprob = value - normaliser
        # Nothing is in a row with a NaN or an infinity.
        is_number = (value > FORBIDDEN) & (logprob == logprob)  # noqa: PLR0124 - NaN
        tl.store(found_logprobs + row * KAPPA + rank, tl.where(is_number, logprob, float("-inf")))
        found = tl.where(places == best, float("-inf"), found)


def exit_topk(
    logits: torch.Tensor,
    children: torch.Tensor,
    kappa: int,
    out: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `reference.exit_topk`; logits' rows may lie apart, their entries next to each other."""
    assert logits.stride(1) == 1, "each row's logits lie next to each other"
    rows, num_logits = logits.shape
    num_blocks = triton.cdiv(num_logits, BLOCK)
    values = torch.empty(rows, num_blocks, kappa, dtype=torch.float32, device=logits.device)
    tokens = torch.empty(rows, num_blocks, kappa, dtype=torch.int64, device=logits.device)
    # Not halves of one tensor: Triton compiles once more for what begins off its alignment, which with some
    # numbers of rows the second half would.
    highest, total = (
        torch.empty(rows, num_blocks, dtype=torch.float32, device=logits.device) for _ in range(2)
    )
    _best_of_block[rows, num_blocks](
        logits,
        children.contiguous(),
        values,
        tokens,
        highest,
        total,
        num_logits,
        logits.stride(0),
        num_blocks,
        NUM_CHILDREN=children.shape[1],
        KAPPA=kappa,
        SIZE=BLOCK,
    )
    if out is None:
        out = (
            torch.empty(rows, kappa, dtype=torch.int64, device=logits.device),
            torch.empty(rows, kappa, dtype=torch.float32, device=logits.device),
        )
    assert all(each.shape == (rows, kappa) and each.is_contiguous() for each in out)
    _best_of_row[rows,](
        values,
        tokens,
        highest,
        total,
        *out,
        num_blocks,
        num_blocks * kappa,
        KAPPA=kappa,
        BLOCKS=triton.next_power_of_2(num_blocks),
        VALUES=triton.next_power_of_2(num_blocks * kappa),
    )
    return out
