"""Verification at temperature > 0 on a GPU: the plain server's sampler at every node, then the greedy walk.

At each node of a window one token is drawn, by the very function and settings with which the plain server
draws. The walk goes on to the child that carries the token drawn, if there is one; else that token is the
correction. So every committed token is a draw from the target's law given the tokens before it: a draw does
not look at the children, and no node is drawn twice. Draws that the walk does not reach are nobody's.

SGLang's own rule for sampled windows accepts a child x with the probability p(x) as well. But it filters by
top-k and what is left by top-p, where the plain server filters by both at once; it leaves min-p out; and a
request's seed gives other tokens. So SGLang is made to walk as for greedy requests, with the drawn tokens in
the place of the most probable ones.

B requests, n nodes of a window, V vocabulary.
"""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import torch

# Of the sampling settings of a batch, those with an entry for each request.
BY_REQUEST = ("temperatures", "top_ks", "top_ps", "min_ps", "sampling_seed")
Draw = Callable[[], torch.Tensor]
# SGLang's own engine for CPUs, in whose place the torch-only platform has a sampled verification of its own.
CPU_ENGINE = "SGLANG_USE_CPU_ENGINE"

_draw: ContextVar[Draw | None] = ContextVar("draw", default=None)


def is_ours(device: torch.device) -> bool:
    """Whether tokens are drawn here, and not by the torch-only platform."""
    return device.type != "cpu" or os.environ.get(CPU_ENGINE) == "1"


@contextlib.contextmanager
def drawn(batch: Any, verify_input: Any, logits: torch.Tensor) -> Iterator[None]:
    """While SGLang verifies this batch, tokens are drawn where requests ask for it.

    Args:
        batch: SGLang's, whose sampling info is a copy for this forward.
        verify_input: SGLang's, with the `sampler` and the `group` of the target's ranks.
        logits: at every node, [B * n, V]; read when the walk begins, with all that is added to them before.
    """
    info, num_nodes = batch.sampling_info, verify_input.draft_token_num

    def draw() -> torch.Tensor:
        tokens = tokens_of(verify_input.sampler, logits, info, verify_input.positions, num_nodes=num_nodes)
        verify_input.group.broadcast(tokens, src=0)  # each rank has random numbers of its own
        return tokens

    greedy, token = info.is_all_greedy, _draw.set(draw)
    info.is_all_greedy = True
    try:
        yield
    finally:
        info.is_all_greedy = greedy
        _draw.reset(token)


def tokens_of(
    sampler: Any, logits: torch.Tensor, info: Any, positions: torch.Tensor, *, num_nodes: int
) -> torch.Tensor:
    """One token at every node, by the plain server's sampler: int64 [B * n].

    Args:
        sampler: SGLang's.
        logits: [B * n, V], not changed.
        info: how the requests sample, [B] each.
        positions: of the nodes in their requests, [B * n]; a request's seed gives each a token of its own.
        num_nodes: n.
    """
    asked = copy.copy(info)
    for name in BY_REQUEST:
        values = getattr(info, name)
        if values is not None:
            setattr(asked, name, values.repeat_interleave(num_nodes, dim=0))
    filtered = info.need_top_k_sampling or info.need_top_p_sampling or info.need_min_p_sampling
    probs = torch.softmax(logits / asked.temperatures, dim=-1)
    found = sampler._sample_from_probs(probs, asked, positions, not filtered)
    tokens: torch.Tensor = found[0] if isinstance(found, tuple) else found  # a tuple since 0.5.18
    return tokens.view(-1).to(torch.int64)


def around_walk(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """AROUND ``verify_tree_greedy_func``: the tokens drawn, if there are any, for the most probable ones."""
    draw = _draw.get()
    if draw is not None:
        kwargs["target_predict"] = draw().view_as(kwargs["target_predict"])  # [B, n]
    return original(*args, **kwargs)
