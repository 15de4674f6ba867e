"""Torch references: any device, any dtype. What every faster kernel is tested against."""

from __future__ import annotations

import torch


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
    scores = logits.float()
    total = torch.logsumexp(scores, dim=-1, keepdim=True)  # [N, 1]
    penalty = torch.zeros_like(scores)
    rows = torch.arange(len(children), device=children.device).unsqueeze(1).expand_as(children)
    real = children >= 0
    penalty[rows[real], children[real]] = -torch.inf
    values, tokens = torch.topk(scores + penalty, kappa, dim=-1)
    return tokens, values - total
