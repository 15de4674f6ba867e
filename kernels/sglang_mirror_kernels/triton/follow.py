"""Verification's walk, one program a request."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def _walk(
    tokens,
    first_child,
    next_sibling,
    wanted,
    path,
    accepted,
    num_nodes,
    WIDTH: tl.constexpr,
    TOPK: tl.constexpr,
):
    request = tl.program_id(0).to(tl.int64)
    base = request * num_nodes
    node = tl.zeros((), tl.int64)
    count = tl.zeros((), tl.int32)
    alive = node == 0
    tl.store(path + request * WIDTH, node)
    for depth in tl.static_range(1, WIDTH):
        choice = tl.load(wanted + base + node)
        child = tl.load(first_child + base + node)
        found = tl.full((), -1, tl.int64)
        for _ in tl.static_range(TOPK):
            known = child >= 0
            token = tl.load(tokens + base + child, mask=known, other=-1)
            found = tl.where(known & (token == choice) & (found < 0), child, found)
            child = tl.load(next_sibling + base + child, mask=known, other=-1)
        alive = alive & (found >= 0)
        node = tl.where(alive, found, node)
        count += alive.to(tl.int32)
        tl.store(path + request * WIDTH + depth, tl.where(alive, node, -1))
    tl.store(accepted + request, count)


def follow(
    tokens: torch.Tensor,
    first_child: torch.Tensor,
    next_sibling: torch.Tensor,
    wanted: torch.Tensor,
    *,
    depth: int,
    topk: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `reference.follow`."""
    batch, num_nodes = tokens.shape
    path = torch.empty(batch, depth + 1, dtype=torch.int64, device=tokens.device)
    accepted = torch.empty(batch, dtype=torch.int32, device=tokens.device)
    _walk[batch,](
        tokens.contiguous(),
        first_child.contiguous(),
        next_sibling.contiguous(),
        wanted.contiguous(),
        path,
        accepted,
        num_nodes,
        WIDTH=depth + 1,
        TOPK=topk,
    )
    return path, accepted
