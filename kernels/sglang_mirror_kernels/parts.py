"""The early exit's candidates where the vocabulary is split: what each part has, and the best of all parts.

A part's ids are consecutive. It says its kappa largest logits and the log-sum-exp of all of them: so much
suffices to know the probability of every candidate under the whole distribution.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from sglang_mirror_kernels.select import exit_topk


def part_topk(
    logits: torch.Tensor, children: torch.Tensor, kappa: int, start: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A part's candidates at each node, the node's own children left out.

    Args:
        logits: early-exit logits of the part's ids, [N, V'], V' may be 0.
        children: token ids of each node's children in whatever part, padded with -1, [N, c].
        kappa: candidates a node.
        start: token id of the first logit.

    Returns:
        Token ids int64 [N, kappa], largest logit first; these logits, float32 [N, kappa]; and log-sum-exp of
        all logits of the part, its children's too, float32 [N, 1]. Where a part has fewer than kappa
        candidates, what fills up has the logit -inf.
    """
    own = children - start  # another part's children, and what pads them, become ids that this one lacks
    if logits.shape[1] >= kappa + children.shape[1]:
        tokens, logprobs = exit_topk(logits, own, kappa)
        values = logits.gather(1, tokens).float()
        return tokens + start, values, values[:, :1] - logprobs[:, :1]
    # The last part of a small vocabulary.
    values = logits.float()
    total = torch.logsumexp(values, -1, keepdim=True)
    is_own = (torch.arange(values.shape[1], device=values.device) == own.unsqueeze(2)).any(1)  # [N, V']
    values = F.pad(values.masked_fill(is_own, -torch.inf), (0, kappa), value=-torch.inf)
    values, tokens = torch.topk(values, kappa, dim=-1)
    return tokens + start, values, total


def merge_parts(
    tokens: torch.Tensor, values: torch.Tensor, totals: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The candidates under the whole distribution: `reference.exit_topk` of all parts' logits together.

    Args:
        tokens: ids of each part's candidates, [parts, N, kappa].
        values: their logits, float32 [parts, N, kappa].
        totals: log-sum-exp of each part, float32 [parts, N, 1].

    Returns:
        Token ids [N, kappa], most probable first, and their natural-log probabilities, float32 [N, kappa].
    """
    kappa = tokens.shape[2]
    logprobs = (values - torch.logsumexp(totals, 0)).transpose(0, 1).flatten(1)  # [N, parts * kappa]
    logprobs, order = torch.topk(logprobs, kappa, dim=-1)
    return tokens.transpose(0, 1).flatten(1).gather(1, order), logprobs
