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
    logprobs = torch.log_softmax(logits, -1, dtype=torch.float32)
    # With as many more as there are children, enough are left without them; to sort these few is cheap.
    values, tokens = torch.topk(logprobs, kappa + children.shape[1], dim=-1, sorted=False)
    own = (tokens.unsqueeze(2) == children.unsqueeze(1)).any(-1)  # [N, kappa + c]
    values, order = torch.topk(values.masked_fill_(own, -torch.inf), kappa, dim=-1)
    return tokens.gather(1, order), values
