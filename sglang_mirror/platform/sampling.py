"""Verification at temperature > 0: the target samples its own token at every node, and the window is walked with them.

**Node sampling.** Every node has its own coin. The target's token at a node is drawn from the target's law there by that
coin alone, then the window is followed from the root as long as a child carries the drawn token. So each committed token is
a draw from the target's own law given the tokens before it, whatever the window proposed: the coins are independent of
the window and of each other, and a node's coin is read once. That is the whole proof, and it holds for trees as for
chains. For a chain it is also the same law as SGLang's target-only acceptance (accept x with probability p(x), else
draw from the rest), which for trees needs an argument about siblings instead.

**The law** is the plain server's under the same request: temperature, then top-k, top-p and min-p together, on the
probabilities as they came out of the softmax. SGLang's verification renormalises after top-k before it looks at top-p,
and leaves min-p out; our filters only mask, and the sampler divides by what is left.

B requests, n nodes of a window, V vocabulary.
"""

from __future__ import annotations

import torch

from sglang_mirror.platform.tree import verify_tree_greedy


def top_k_mask(probs: torch.Tensor, top_k: torch.Tensor | int) -> torch.Tensor:
    """`probs` [rows, V] with everything below each row's `top_k` largest set to zero, not renormalised."""
    vocab = probs.shape[-1]
    ks = torch.as_tensor(top_k, device=probs.device).to(torch.int64).reshape(-1, 1).clamp(1, vocab)
    descending, order = probs.sort(dim=-1, descending=True)
    descending.masked_fill_(torch.arange(vocab, device=probs.device) >= ks, 0.0)
    return torch.empty_like(probs).scatter_(1, order, descending)


def top_p_mask(probs: torch.Tensor, top_p: torch.Tensor | float) -> torch.Tensor:
    """`probs` [rows, V] with everything outside each row's nucleus set to zero, not renormalised.

    A token stays if the mass of the tokens above it is at most `top_p`, as in SGLang's plain sampler.
    """
    ps = torch.as_tensor(top_p, device=probs.device, dtype=probs.dtype).reshape(-1, 1)
    descending, order = probs.sort(dim=-1, descending=True)
    above = descending.cumsum(-1) - descending
    return torch.empty_like(probs).scatter_(1, order, descending.masked_fill_(above > ps, 0.0))


def sample_by_coin(probs: torch.Tensor, coins: torch.Tensor) -> torch.Tensor:
    """One token a row by inverse transform: `probs` [rows, V] need not sum to 1, `coins` [rows] in [0, 1); int64 [rows].

    Sums in float64, so that no token's share is lost to a long vocabulary's rounding; never a token of probability 0.
    """
    reached = probs.cumsum(-1, dtype=torch.float64)
    marks = coins.to(torch.float64).unsqueeze(1) * reached[:, -1:]
    tokens = torch.searchsorted(reached, marks, right=True).squeeze(1)
    # coin * total may round up to total itself, which lies beyond the last token that has any mass.
    last = torch.searchsorted(reached, reached[:, -1:]).squeeze(1)
    return torch.minimum(tokens, last)


def tree_sampling_target_only(
    predicts: torch.Tensor,
    accept_index: torch.Tensor,
    accept_token_num: torch.Tensor,
    candidates: torch.Tensor,
    retrive_index: torch.Tensor,
    retrive_next_token: torch.Tensor,
    retrive_next_sibling: torch.Tensor,
    uniform_samples: torch.Tensor,
    uniform_samples_for_final_sampling: torch.Tensor,
    target_probs: torch.Tensor,
    draft_probs: torch.Tensor,
    threshold_single: float = 1.0,
    threshold_acc: float = 1.0,
    deterministic: bool = True,
) -> None:
    """Node sampling under the signature of ``tree_speculative_sampling_target_only``; outputs as `verify_tree_greedy`.

    `target_probs` float [B, n, V] are filtered but need not sum to 1; `uniform_samples` [B, n] are the coins. The other
    arguments belong to SGLang's rule: the acceptance thresholds trade the target's law for speed, which this never does.
    """
    tokens = sample_by_coin(target_probs.flatten(0, 1), uniform_samples.flatten())
    verify_tree_greedy(
        predicts,
        accept_index,
        accept_token_num,
        candidates,
        retrive_index,
        retrive_next_token,
        retrive_next_sibling,
        tokens.view_as(candidates),
    )
