"""What the early exit said, as a message to the draft."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from sglang_mirror.core.window import Window
from sglang_mirror.engine.request import UNHELD, Request
from sglang_mirror.protocol.messages import ExitCandidates, Stamp

# Of each request of a batch: its stamp before the commit, and how many nodes its window has.
Addresses = Sequence[tuple[Stamp, int]]


def addresses(requests: Sequence[Request], windows: Sequence[Window | None]) -> Addresses:
    """Where the candidates of these windows' verification go. Taken before it: requests move on meanwhile.

    Without a window it is the root alone, also if one came after they were taken to be verified. A request
    that no draft holds has none.
    """
    return [
        (request.stamp, _num_nodes(request, window))
        for request, window in zip(requests, windows, strict=True)
    ]


def _num_nodes(request: Request, window: Window | None) -> int:
    if request.epoch == UNHELD:
        return 0
    return len(window) if window else 1


def exit_candidates(to: Addresses, tokens: torch.Tensor, logprobs: torch.Tensor) -> list[ExitCandidates]:
    """One entry a request that a draft holds, of its window's nodes alone.

    Args:
        to: the requests of the batch.
        tokens: of the exit, [B * n, kappa].
        logprobs: of the same.
    """
    by_request = (len(to), -1, tokens.shape[1])
    ids, values = tokens.view(by_request).tolist(), logprobs.view(by_request).tolist()
    return [
        ExitCandidates(stamp, _nested(ids[row][:count]), _nested(values[row][:count]))
        for row, (stamp, count) in enumerate(to)
        if count
    ]


def _nested(rows: list[list[Any]]) -> tuple[tuple[Any, ...], ...]:
    return tuple(map(tuple, rows))
