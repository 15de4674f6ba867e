"""Verification at temperature > 0: the plain server's sampler, at the nodes that the walk reaches.

The walk stands at a node; the target's token there is drawn by the very functions that the plain server
samples with; if a child carries that token the walk goes on to it, else the token is the correction. So every
committed token is a draw from the target's law given the tokens before it, whatever the window proposed: the
draw at a node does not look at its children, and no node is drawn twice. That is the whole proof,
and it holds for trees as for chains. (For a chain it is also the law of SGLang's target-only acceptance,
accept x with probability p(x), else draw from the rest; for trees that rule needs an argument about siblings,
and its coins cannot carry a request's seed.) Exactly as many tokens are drawn as are committed, so large
vocabularies cost no more here than in plain decoding.

Being the same functions, they filter alike: top-k, top-p and min-p together, on the probabilities as they
came out of the softmax. SGLang's verification renormalises after top-k before it looks at top-p, and leaves
min-p out.

B requests, n nodes of a window, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from sglang.srt.layers.sampler import (
    sampling_from_probs_torch,
    top_k_top_p_min_p_sampling_from_probs_torch,
)

from sglang_mirror.platform import tree


class Asked(NamedTuple):
    """What the requests being verified ask of sampling; SGLang does not hand it to its tree sampler."""

    info: Any  # SamplingBatchInfo, one row a request
    positions: torch.Tensor  # int64 [B * n], of the nodes
    num_nodes: int  # n


_asked: ContextVar[Asked] = ContextVar("asked")


def around_eagle_sample(
    original: Callable[..., Any], verify_input: Any, batch: Any, *args: Any, **kwargs: Any
) -> Any:
    """AROUND ``eagle_sample``: keeps what the requests ask for within reach of `sample_tree`."""
    asked = Asked(batch.sampling_info, verify_input.positions, verify_input.draft_token_num)
    token = _asked.set(asked)
    try:
        return original(verify_input, batch, *args, **kwargs)
    finally:
        _asked.reset(token)


def unfiltered(probs: torch.Tensor, limit: torch.Tensor) -> torch.Tensor:  # noqa: ARG001
    """Stands in for ``top_k_renorm_prob`` and ``top_p_renorm_prob``: `sample_tree` filters jointly."""
    return probs


def sample_tree(
    *,
    predicts: torch.Tensor,
    accept_index: torch.Tensor,
    accept_token_num: torch.Tensor,
    candidates: torch.Tensor,
    retrive_index: torch.Tensor,
    retrive_next_token: torch.Tensor,
    retrive_next_sibling: torch.Tensor,
    target_probs: torch.Tensor,
    **_sglangs_rule: Any,
) -> None:
    """Walk every window with sampled tokens, in place of ``tree_speculative_sampling_target_only``.

    `target_probs` float [B, n, V] come from the softmax, unfiltered; the rest is as in `tree.verify`.
    SGLang's coins, draft probabilities and acceptance thresholds belong to its own rule; the thresholds trade
    the target's law for speed.
    """
    asked = _asked.get()
    probs = target_probs.flatten(0, 1)

    def draw(nodes: list[int]) -> list[int]:
        rows = torch.tensor(nodes)
        requests, positions = rows // asked.num_nodes, asked.positions[rows]
        tokens: list[int] = _sample(probs[rows], asked.info, requests, positions).tolist()
        return tokens

    outputs = predicts, accept_index, accept_token_num
    tree.verify(outputs, candidates, (retrive_index, retrive_next_token, retrive_next_sibling), draw)


def _sample(probs: torch.Tensor, info: Any, requests: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """One token a row of `probs` [rows, V], as its request asks, by the plain sampler: int [rows]."""
    seed = None if info.sampling_seed is None else info.sampling_seed[requests]
    if not (info.need_top_p_sampling or info.need_top_k_sampling or info.need_min_p_sampling):
        return sampling_from_probs_torch(probs, sampling_seed=seed, positions=positions)
    return top_k_top_p_min_p_sampling_from_probs_torch(
        probs,
        info.top_ks[requests],
        info.top_ps[requests],
        info.min_ps[requests],
        info.need_min_p_sampling,
        seed,
        positions,
        max_top_k=info.max_top_k,
    )
