"""KV slot bookkeeping of speculative decoding in torch: the slots of a window's nodes or a draft's steps.

Every function stands in for the SGLang function named in its docstring, keeps its signature, and writes to
the buffers that its caller owns. B requests, n nodes of a window (the root included), W slots in a request's
table row.
"""

from __future__ import annotations

import torch


def extend_cache_locs(
    *,
    req_pool_indices: torch.Tensor,
    req_to_token: torch.Tensor,
    start_offset: torch.Tensor,
    end_offset: torch.Tensor,
    batch_size: int,
    draft_token_num: int,
    device: torch.device | str,
) -> torch.Tensor:
    """Slots ``req_to_token[r, start:end]`` of all requests, packed (``assign_extend_cache_locs_func``).

    `req_to_token` is int32 [num_requests, W], the others are [B]; returns int64 [B * draft_token_num], of
    which the first ``sum(end - start)`` are written.
    """
    slots = torch.empty(batch_size * draft_token_num, dtype=torch.int64, device=device)
    rows, cols = _spans(req_pool_indices, start_offset, end_offset)
    slots[: rows.numel()] = req_to_token[rows, cols].to(torch.int64)
    return slots


def assign_req_to_token_pool(  # noqa: PLR0917  (the host's signature)
    req_pool_indices: torch.Tensor,
    req_to_token: torch.Tensor,
    start_offset: torch.Tensor,
    end_offset: torch.Tensor,
    out_cache_loc: torch.Tensor,
    batch_size: int,  # noqa: ARG001
) -> None:
    """Write packed slots into ``req_to_token[r, start:end]`` (``assign_req_to_token_pool_func``)."""
    rows, cols = _spans(req_pool_indices, start_offset, end_offset)
    req_to_token[rows, cols] = out_cache_loc[: rows.numel()].to(req_to_token.dtype)


def draft_cache_locs_contiguous(  # noqa: PLR0917  (the host's signature)
    req_pool_indices: torch.Tensor,
    req_to_token: torch.Tensor,
    seq_lens: torch.Tensor,
    out_cache_loc: torch.Tensor,
    topk: int,
    num_cols: int,
    positions: torch.Tensor | None = None,
    mrope: torch.Tensor | None = None,
) -> None:
    """Each request's `topk` x `num_cols` slots past its length (``assign_draft_cache_locs_contiguous_func``).

    `out_cache_loc` is int64 [B * topk * num_cols]; `positions` [B * topk] and `mrope` [3, B * topk], where
    given, get the request's length, the position of the first drafted token.
    """
    width = topk * num_cols
    cols = seq_lens.to(torch.int64).unsqueeze(1) + torch.arange(width, device=seq_lens.device)
    out_cache_loc.copy_(req_to_token[req_pool_indices.to(torch.int64).unsqueeze(1), cols].reshape(-1))
    if positions is not None:
        positions.copy_(seq_lens.repeat_interleave(topk))
    if mrope is not None:
        mrope.copy_(seq_lens.repeat_interleave(topk).expand_as(mrope))


def front_out_cache_loc(
    num_front: torch.Tensor, out_cache_loc: torch.Tensor, front_out_cache_loc: torch.Tensor
) -> None:
    """Pack the first ``num_front[i]`` slots of request i's window (``fill_front_out_cache_loc_func``)."""
    window = out_cache_loc.view(num_front.numel(), -1)  # [B, n]
    front = window[torch.arange(window.shape[1], device=window.device) < num_front.unsqueeze(1)]
    front_out_cache_loc[: front.numel()] = front.to(front_out_cache_loc.dtype)


def accept_out_cache_loc(
    accept_index: torch.Tensor, out_cache_loc: torch.Tensor, accept_out_cache_loc: torch.Tensor, size: int
) -> None:
    """Pack the slots of the accepted nodes; padding is -1 (``fill_accept_out_cache_loc_func``)."""
    flat = accept_index.reshape(-1)[:size]
    accepted = out_cache_loc[flat[flat > -1].to(torch.int64)]
    accept_out_cache_loc[: accepted.numel()] = accepted.to(accept_out_cache_loc.dtype)


def bonus_tokens(
    accept_tokens: torch.Tensor,
    accept_lens: torch.Tensor,
    bonus_tokens: torch.Tensor,
    accept_stride: int,
    batch_size: int,
) -> None:
    """The last committed token of each request, the correction (``fill_bonus_tokens_func``).

    `accept_tokens` is [B * accept_stride] or [B, accept_stride], `accept_lens` [B] counts the correction.
    """
    tokens = accept_tokens.reshape(batch_size, accept_stride)
    last = accept_lens.to(torch.int64).unsqueeze(1) - 1
    bonus_tokens.copy_(tokens.gather(1, last).squeeze(1))


def _spans(
    req_pool_indices: torch.Tensor, start: torch.Tensor, end: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Row and column of every table cell in ``[start, end)``, request by request: int64 [cells] each."""
    start = start.to(torch.int64)
    lens = (end.to(torch.int64) - start).clamp_(min=0)
    rows = req_pool_indices.to(torch.int64).repeat_interleave(lens)
    ends = lens.cumsum(0)
    cols = torch.arange(rows.numel(), device=start.device) + (start - ends + lens).repeat_interleave(lens)
    return rows, cols
