"""What one forward attends to, resolved once for all its layers.

Decoding, prefill and verification have one form here: b requests, each with a cached *prefix* that every
query sees, and a *tail* of t tokens of which each of the n queries sees some. A decoded token is a tail of
one that sees itself, a prefill's tail is causal, a window's tail is its tree. So a token is computed by the
same operations whether it is decoded or verified.

Letters: b requests of a group, n queries and t tail tokens a request, P the longest prefix, kv = P + t
columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

# A request's new tokens are attended in blocks of this many queries, which bounds a mask to BLOCK x kv cells
# and leaves out most of what causality hides.
BLOCK = 256
# Masks up to this many cells (float32: 4 MB) are kept for the forward's other layers; larger ones are built
# anew in each, where attention itself takes a thousand times longer.
CACHED_CELLS = 1 << 20


@dataclass(frozen=True, slots=True)
class Group:
    """Queries that are attended together, and the KV slots of what they see."""

    start: int  # first query row of the forward
    prefix_lens: tuple[int, ...]  # b
    slots: slice | torch.Tensor  # the slots of all [b, kv], flat int64; a slice where they are consecutive
    tail: torch.Tensor  # bool [b, n, t]: which tail tokens each query sees
    masks: dict[tuple[int, torch.dtype], torch.Tensor | None] = field(default_factory=dict)

    @property
    def batch(self) -> int:
        """b."""
        return len(self.prefix_lens)

    @property
    def stop(self) -> int:
        """One past the last query row."""
        return self.start + len(self.prefix_lens) * int(self.tail.shape[1])

    def mask(self, window: int, dtype: torch.dtype) -> torch.Tensor | None:
        """Additive mask [b, 1, n, kv] of `dtype`, or None where every query sees every column.

        `window` is a layer's sliding window in SGLang's convention: a query sees that many tokens before
        itself, all if it is negative.
        """
        key = (window, dtype)
        if key in self.masks:
            return self.masks[key]
        visible = self._visible(window)
        mask = None
        if not bool(visible.all()):
            mask = torch.zeros(visible.shape, dtype=dtype).masked_fill_(~visible, float("-inf")).unsqueeze(1)
        if visible.numel() <= CACHED_CELLS:
            self.masks[key] = mask
        return mask

    def _visible(self, window: int) -> torch.Tensor:
        """Which columns each query sees: bool [b, n, kv]."""
        batch, n, t = self.tail.shape
        lens = torch.tensor(self.prefix_lens).view(-1, 1)  # [b, 1]
        columns = torch.arange(max(self.prefix_lens)).expand(batch, -1)  # [b, P]
        visible = torch.cat([(columns < lens).unsqueeze(1).expand(-1, n, -1), self.tail], dim=2)
        if window < 0:
            return visible
        # In a tree a node's position is its depth: the number of tail tokens it sees beside itself.
        query_at = lens + self.tail.sum(-1) - 1  # [b, n]
        tail_at = query_at if n == t else lens + torch.arange(t)
        key_at = torch.cat([columns, tail_at.expand(batch, -1)], dim=1)  # [b, kv]
        return visible & (key_at.unsqueeze(1) >= query_at.unsqueeze(2) - window)


def group(
    table: torch.Tensor,
    rows: Sequence[int],
    prefix_lens: Sequence[int],
    tail_slots: torch.Tensor,
    tail: torch.Tensor,
    *,
    start: int = 0,
) -> list[Group]:
    """Plan requests that have equally many queries: one group, or one each where padding doubles the work.

    `table` int32 [num_requests, W] holds each request's KV slots in the order of its tokens, `rows` [b] names
    the requests' rows, `tail_slots` int64 [b, t] and `tail` bool [b, n, t] are their tails, `start` the first
    query's row.
    """
    if len(rows) == 1 or len(rows) * max(prefix_lens) <= 2 * sum(prefix_lens) + BLOCK:
        slots = _slots(table, rows, prefix_lens, tail_slots)
        return [Group(start, tuple(prefix_lens), slots, tail)]
    n = tail.shape[1]
    return [
        Group(
            start + i * n,
            (prefix_lens[i],),
            _slots(table, rows[i : i + 1], prefix_lens[i : i + 1], tail_slots[i : i + 1]),
            tail[i : i + 1],
        )
        for i in range(len(rows))
    ]


def new_tokens(
    table: torch.Tensor, rows: Sequence[int], prefix_lens: Sequence[int], new_lens: Sequence[int]
) -> list[Group]:
    """Plan a causal extend: `new_lens` [b] tokens of each request after its cached `prefix_lens` [b]."""
    if len(set(new_lens)) == 1 and new_lens[0] <= BLOCK:
        tail = causal(new_lens[0]).expand(len(rows), -1, -1)
        return group(table, rows, prefix_lens, tail_slots(table, rows, prefix_lens, new_lens[0]), tail)
    groups: list[Group] = []
    start = 0
    for row, prefix_len, new_len in zip(rows, prefix_lens, new_lens, strict=True):
        for done in range(0, new_len, BLOCK):
            seen, n = prefix_len + done, min(BLOCK, new_len - done)
            own = tail_slots(table, [row], [seen], n)
            groups += group(table, [row], [seen], own, causal(n).unsqueeze(0), start=start)
            start += n
    return groups


def tail_slots(table: torch.Tensor, rows: Sequence[int], prefix_lens: Sequence[int], t: int) -> torch.Tensor:
    """KV slots of the `t` tokens after each request's prefix: int64 [b, t]."""
    return torch.stack(
        [table[row, prefix : prefix + t] for row, prefix in zip(rows, prefix_lens, strict=True)]
    ).long()


def causal(n: int) -> torch.Tensor:
    """Token i sees tokens 0..i: bool [n, n]."""
    return torch.ones(n, n, dtype=torch.bool).tril_()


def _slots(
    table: torch.Tensor, rows: Sequence[int], prefix_lens: Sequence[int], tail_slots: torch.Tensor
) -> slice | torch.Tensor:
    """KV slots of prefix and tail of every request, flat [b * (P + t)].

    Columns past a shorter prefix repeat a slot of the request itself: they are masked, but a foreign slot
    could hold a NaN, which no mask removes.
    """
    width = max(prefix_lens)
    if len(rows) == 1:
        flat = torch.cat([table[rows[0], :width].long(), tail_slots[0]])
        first = int(flat[0])
        # A request that was allocated in one go occupies consecutive slots, whose keys need no copy.
        if torch.equal(flat, torch.arange(first, first + flat.numel())):
            return slice(first, first + flat.numel())
        return flat
    prefix = table[torch.tensor(rows), :width].long()
    padding = torch.arange(width) >= torch.tensor(prefix_lens).view(-1, 1)
    return torch.cat([torch.where(padding, tail_slots[:, :1], prefix), tail_slots], dim=1).flatten()
