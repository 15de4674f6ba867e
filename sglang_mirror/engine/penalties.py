"""Penalties on what a request has said already, exact at every node of its window.

SGLang's speculative verification relaxes them: it counts one token a step, however many were accepted, and
shows every node the same counts. The text is then not the plain server's. Here each node of a window is
judged by the request's whole output and the window's tokens before it, as plain decoding would judge it.

B requests, n nodes of a window, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from sglang_mirror.core.window import depths


def penalise(
    batch: Any,
    tokens: torch.Tensor,
    parents: Sequence[Sequence[int]],
    unread: Sequence[Sequence[int]],
    logits: torch.Tensor,
) -> None:
    """Apply every request's penalties to `logits` in place, and keep SGLang from applying its own.

    Args:
        batch: SGLang's batch, whose sampling info is a copy for this forward.
        tokens: of the windows, roots included, int [B, n].
        parents: of their nodes, -1 for the roots, [B][n]; they come before their children.
        unread: last tokens of each request's output that SGLang has not taken in, [B][...].
        logits: at every node, [B * n, V].
    """
    info = batch.sampling_info
    additive = info.acc_additive_penalties
    if additive is None and info.acc_scaling_penalties is None:
        return
    num_nodes = tokens.shape[1]
    for row, (req, block) in enumerate(zip(batch.reqs, logits.split(num_nodes), strict=True)):
        # SGLang counts too few tokens, so while a request's end is forbidden, its stop tokens are in there.
        forbidden = None if additive is None else additive[row].isneginf()
        output = [*req.output_ids, *unread[row]]
        _penalise(req.sampling_params, output, tokens[row].tolist(), parents[row], block, forbidden)
    info.acc_additive_penalties = info.acc_scaling_penalties = None


def _penalise(  # noqa: PLR0917 - what is asked, what was said, the window, what the target says of it
    asked: Any,
    output: Sequence[int],
    window: Sequence[int],
    parents: Sequence[int],
    logits: torch.Tensor,
    forbidden: torch.Tensor | None,
) -> None:
    """One request; `window` [n] with its root, which is the last of the output; `logits` [n, V]."""
    if forbidden is not None and len(output) < asked.min_new_tokens:
        for node, depth in enumerate(depths(parents)):
            if len(output) + depth < asked.min_new_tokens:
                logits[node].masked_fill_(forbidden, -torch.inf)
    if not (asked.frequency_penalty or asked.presence_penalty or asked.repetition_penalty != 1.0):
        return
    counts = torch.zeros_like(logits, dtype=torch.float32)  # [n, V]
    said = torch.tensor(output, dtype=torch.int64, device=logits.device)
    counts[0].scatter_add_(0, said, torch.ones_like(said, dtype=torch.float32))
    for node, parent in enumerate(parents[1:], start=1):
        counts[node] = counts[parent]
        counts[node, window[node]] += 1.0
    logits.sub_(asked.frequency_penalty * counts + asked.presence_penalty * (counts > 0))
    factor = torch.where(counts > 0, asked.repetition_penalty, 1.0)
    logits.copy_(torch.where(logits < 0, logits * factor, logits / factor))
