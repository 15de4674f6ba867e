"""The signal: what the early exit says at each node, as the draft is told it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from sglang_mirror.engine.request import Request
from sglang_mirror.protocol.messages import ExitCandidates


def exit_candidates(
    requests: Sequence[Request], tokens: torch.Tensor, logprobs: torch.Tensor
) -> list[ExitCandidates]:
    """One entry a request with a window, of that window's nodes alone.

    Args:
        requests: of the batch, each before its commit.
        tokens: of the exit, [B * n, kappa].
        logprobs: of the same.
    """
    by_request = (len(requests), -1, tokens.shape[1])
    ids, values = tokens.view(by_request).tolist(), logprobs.view(by_request).tolist()
    return [
        ExitCandidates(request.stamp, _nested(ids[row][:count]), _nested(values[row][:count]))
        for row, request in enumerate(requests)
        if (count := len(request.window or ()))
    ]


def _nested(rows: list[list[Any]]) -> tuple[tuple[Any, ...], ...]:
    return tuple(map(tuple, rows))
