"""Rows of many requests in one launch: where each one's KV lies and what it sees."""

from __future__ import annotations

from dataclasses import dataclass

import torch

WORD_BITS = 64
# Rows of one request that are computed together, and share what is read of its KV.
BLOCK_ROWS = 16


@dataclass(frozen=True, slots=True)
class TreeRows:
    """The rows of a forward, all int64 on its device; those that only fill up its shape come last.

    A request's KV is [2, layers, kv heads, capacity, head dim], keys first, wherever its memory lies: `base`
    says how many elements it is behind a tensor that all requests are counted from, and that may be another
    allocation. So a captured graph, whose own addresses stand still, finds a cache that moves as it grows.

    Attributes:
        base: first element of the KV of the row's request, a multiple of 16, [rows].
        capacity: slots of that KV, [rows].
        slot: where the row's own KV goes, [rows].
        prefix: the row sees the slots 0..prefix - 1, [rows].
        num_slots: one more than the last slot that it sees; 0 of a row that fills up, [rows].
        seen: which slots it sees from `prefix` on, the first in the lowest bit, [words, rows].
        num_blocks: into which the rows are divided, [1].
        block_first: the first row of each block, [rows].
        block_len: a block's rows, at most BLOCK_ROWS, of one request and prefix, [rows].
    """

    base: torch.Tensor
    capacity: torch.Tensor
    slot: torch.Tensor
    prefix: torch.Tensor
    num_slots: torch.Tensor
    seen: torch.Tensor
    num_blocks: torch.Tensor
    block_first: torch.Tensor
    block_len: torch.Tensor


@dataclass(frozen=True, slots=True)
class Layer:
    """Which layer of a KV is meant.

    Attributes:
        index: from 0.
        num_layers: of the KV.
        num_kv_heads: of the KV.
    """

    index: int
    num_layers: int
    num_kv_heads: int
