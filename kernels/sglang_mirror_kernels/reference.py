"""Torch references: any device, any dtype. What every faster kernel is tested against."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def exit_topk(logits: torch.Tensor, children: torch.Tensor, kappa: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The early exit's candidates at each node, the node's own children left out.

    Args:
        logits: early-exit logits, [N, V].
        children: tokens of each node's children, padded with -1, [N, c].
        kappa: candidates a node; kappa + c <= V.

    Returns:
        Token ids int64 [N, kappa], most probable first, and their natural-log probabilities, float32
        [N, kappa], under the whole distribution: the children keep their share of it.
    """
    logprobs = torch.log_softmax(logits, -1, dtype=torch.float32)
    # With as many more as there are children, enough are left without them; to sort these few is cheap.
    values, tokens = torch.topk(logprobs, kappa + children.shape[1], dim=-1, sorted=False)
    own = (tokens.unsqueeze(2) == children.unsqueeze(1)).any(-1)  # [N, kappa + c]
    values, order = torch.topk(values.masked_fill_(own, -torch.inf), kappa, dim=-1)
    return tokens.gather(1, order), values


def follow(
    tokens: torch.Tensor,
    first_child: torch.Tensor,
    next_sibling: torch.Tensor,
    wanted: torch.Tensor,
    *,
    depth: int,
    topk: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Follow each window from its root as long as a child carries the target's token.

    Greedy and sampled verification are the same walk: by the exact-match rule `wanted` is the target's argmax
    at each node, or what it samples there.

    Args:
        tokens: of the nodes, int64 [B, n]; the root is node 0.
        first_child: of each node, -1 for none, int64 [B, n].
        next_sibling: the next child of the same parent, -1 for none, int64 [B, n].
        wanted: the target's own token at each node, int64 [B, n].
        depth: of the windows: draft tokens on the longest path.
        topk: children a node, at most.

    Returns:
        The paths, int64 [B, depth + 1], root first, padded with -1; and how many draft tokens each accepted,
        int32 [B].
    """
    batch = tokens.shape[0]
    node = torch.zeros(batch, 1, dtype=torch.int64, device=tokens.device)
    alive = torch.ones(batch, 1, dtype=torch.bool, device=tokens.device)
    path = [node]
    for _ in range(depth):
        choice, child = wanted.gather(1, node), first_child.gather(1, node)
        found = torch.full_like(node, -1)
        for _ in range(topk):
            known = child >= 0
            token = tokens.gather(1, child.clamp(min=0))
            found = torch.where(known & (token == choice) & (found < 0), child, found)
            child = torch.where(known, next_sibling.gather(1, child.clamp(min=0)), -1)
        alive = alive & (found >= 0)
        node = torch.where(alive, found, node)
        path.append(torch.where(alive, node, -1))
    paths = torch.cat(path, 1)
    return paths, (paths[:, 1:] >= 0).sum(1, dtype=torch.int32)


def promote(kv: torch.Tensor, slots: torch.Tensor, start: int) -> None:
    """Move what is in `slots` into the slots from `start` on, in that order, in place.

    Args:
        kv: keys and values, [2, layers, kv heads, capacity, head dim].
        slots: int64 [m]; they may overlap with where they go.
        start: slot of the first.
    """
    kv[:, :, :, start : start + slots.numel()] = kv.index_select(3, slots)


def branch_attention(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    seen: torch.Tensor,
    *,
    scale: float,
) -> torch.Tensor:
    """Attention of a request's tree rows: all see its text, and of its tree what `seen` says.

    Args:
        query: [heads, n, head dim].
        keys: of the text and, behind it, the tree, [kv heads, S, head dim]; heads is a multiple of kv heads.
        values: likewise.
        seen: which of the last t slots each row sees, bool [n, t].
        scale: of the scores.

    Returns:
        [heads, n, head dim].
    """
    text = seen.new_ones(seen.shape[0], keys.shape[1] - seen.shape[1])
    mask = torch.cat((text, seen), 1)
    return F.scaled_dot_product_attention(
        query[None], keys[None], values[None], attn_mask=mask, scale=scale, enable_gqa=True
    )[0]


def pack_mask(mask: torch.Tensor) -> torch.Tensor:
    """Bits of a mask as FlashInfer takes them: row after row, the first in the lowest bit of the first byte.

    Args:
        mask: bool [...].

    Returns:
        uint8 [ceil(cells / 8)].
    """
    bits = mask.flatten().to(torch.uint8)
    bits = F.pad(bits, (0, -len(bits) % 8)).view(-1, 8)
    weights = 1 << torch.arange(8, dtype=torch.uint8, device=mask.device)
    return (bits * weights).sum(1, dtype=torch.uint8)
