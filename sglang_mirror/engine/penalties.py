"""Penalties on what a request has said already, exact at every node of its window.

SGLang's speculative verification relaxes them: it counts one token a step, however many were accepted, and
shows every node the same counts. The text is then not the plain server's. Here each node of a window is
judged by the request's whole output and the window's tokens before it, as plain decoding would judge it.

B requests, n nodes of a window, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
        tokens: of the windows, without the roots, int64 [B, n - 1]; on the host, for a GPU is waited for.
        parents: of their nodes, -1 for the roots, [B][n]; they come before their children.
        unread: last tokens of each request's output that SGLang has not taken in, [B][...].
        logits: at every node, [B * n, V].
    """
    info = batch.sampling_info
    additive = info.acc_additive_penalties
    if additive is None and info.acc_scaling_penalties is None:
        return
    windows, num_nodes = tokens.tolist(), tokens.shape[1] + 1
    for row, (req, block) in enumerate(zip(batch.reqs, logits.split(num_nodes), strict=True)):
        # SGLang counts too few tokens, so while a request's end is forbidden, its stop tokens are in there.
        forbidden = None if additive is None else additive[row].isneginf()
        output = [*req.output_ids, *unread[row]]
        _penalise(req.sampling_params, output, windows[row], parents[row], block, forbidden)
    info.acc_additive_penalties = info.acc_scaling_penalties = None


def _penalise(  # noqa: PLR0917 - what is asked, what was said, the window, what the target says of it
    asked: Any,
    output: Sequence[int],
    window: Sequence[int],
    parents: Sequence[int],
    logits: torch.Tensor,
    forbidden: torch.Tensor | None,
) -> None:
    """One request; `window` [n - 1] without its root, which is the last of the output; `logits` [n, V]."""
    if forbidden is not None and len(output) < asked.min_new_tokens:
        for node, depth in enumerate(depths(parents)):
            if len(output) + depth < asked.min_new_tokens:
                logits[node].masked_fill_(forbidden, -torch.inf)
    if not (asked.frequency_penalty or asked.presence_penalty or asked.repetition_penalty != 1.0):
        return
    counts = torch.zeros_like(logits, dtype=torch.float32)  # [n, V]
    said = torch.tensor(output, dtype=torch.int64, device=logits.device)
    counts.index_add_(1, said, torch.ones((), device=logits.device).expand(len(parents), len(output)))
    before = torch.tensor(list(_said_before(window, parents)), dtype=torch.int64, device=logits.device)
    nodes, tokens = before.view(-1, 2).unbind(1)
    counts.index_put_((nodes, tokens), torch.ones((), device=logits.device), accumulate=True)
    logits.sub_(asked.frequency_penalty * counts + asked.presence_penalty * (counts > 0))
    factor = torch.where(counts > 0, asked.repetition_penalty, 1.0)
    logits.copy_(torch.where(logits < 0, logits * factor, logits / factor))


def _said_before(window: Sequence[int], parents: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Each node with each token of the window on its path, its own included."""
    for node in range(1, len(parents)):
        above = node
        while above > 0:
            yield node, window[above - 1]
            above = parents[above]
