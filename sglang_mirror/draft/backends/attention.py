"""Attention of tree rows: each request's rows see its prefix, their ancestors and themselves."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F

from sglang_mirror.draft.backends.base import Segment
from sglang_mirror.draft.backends.kv_cache import TensorCache

# Far below any score, and finite in every dtype: a row of -inf would turn into NaN.
HIDDEN = -30000.0


@dataclass(slots=True)
class _Part:
    """One request's rows in the flat sequence of a forward."""

    first: int
    last: int
    start: int
    num_slots: int
    cache: TensorCache
    mask: torch.Tensor | None  # [n, num_slots], 0 or HIDDEN; None if a single row sees everything
    windowed: torch.Tensor | None  # the same under the sliding window, where that hides anything

    def mask_for(self, *, sliding: bool) -> torch.Tensor | None:
        return self.windowed if sliding and self.windowed is not None else self.mask


class TreeAttention:
    """Masks and slots of one forward, built once and used by every layer.

    Args:
        segments: the rows, request by request.
        dtype: of the model.
        device: of the model.
        sliding_window: tokens that a sliding layer sees back, its own included; None if no layer slides.

    Attributes:
        last_position: the highest place in the text among the rows.
    """

    def __init__(
        self,
        segments: Sequence[Segment],
        *,
        dtype: torch.dtype,
        device: torch.device,
        sliding_window: int | None = None,
    ) -> None:
        self.last_position = max(max(segment.positions) for segment in segments)
        self._parts = []
        first = 0
        for segment in segments:
            cache = cast("TensorCache", segment.cache)
            cache.reserve(segment.start, segment.positions)
            last = first + len(segment.tokens)
            mask = _mask(segment, dtype, device)
            windowed = _windowed(segment, cache, mask, sliding_window)
            num_slots = segment.start + len(segment.tokens)
            self._parts.append(_Part(first, last, segment.start, num_slots, cache, mask, windowed))
            first = last

    def __call__(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        scale: float,
        sliding: bool = False,
        softcap: float | None = None,
    ) -> torch.Tensor:
        """Write the rows' keys and values, and attend.

        Args:
            layer: whose KV it is.
            query: [heads, rows, head dim].
            key: [kv heads, rows, head dim].
            value: [kv heads, rows, head dim].
            scale: of the scores.
            sliding: whether this layer sees only its sliding window.
            softcap: bound of the scores, as in Gemma 2.

        Returns:
            [rows, heads, head dim].
        """
        outputs = []
        for part in self._parts:
            keys, values = part.cache.keys[layer], part.cache.values[layer]
            num_rows = part.last - part.first
            keys.narrow(1, part.start, num_rows).copy_(key.narrow(1, part.first, num_rows))
            values.narrow(1, part.start, num_rows).copy_(value.narrow(1, part.first, num_rows))
            keys, values = keys.narrow(1, 0, part.num_slots), values.narrow(1, 0, part.num_slots)
            mask = part.mask_for(sliding=sliding)
            rows = query.narrow(1, part.first, num_rows)
            outputs.append(_attend(rows, keys, values, mask, scale=scale, softcap=softcap).transpose(0, 1))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def streams(self, rows: Sequence[int], count: int) -> StreamAttention:
        """For `count` streams of each of these rows of the forward [s], ascending."""
        return StreamAttention(self._parts, rows, count)


class StreamAttention:
    """Attention of the streams of some rows, whose keys and values a layer has been given already.

    A stream sees what its row sees, the streams of that row before it, and itself; nothing is kept.

    Args:
        parts: the forward's requests.
        rows: of the forward, ascending.
        count: streams a row.
    """

    def __init__(self, parts: Sequence[_Part], rows: Sequence[int], count: int) -> None:
        self._count = count
        ours = [(part, [row - part.first for row in rows if part.first <= row < part.last]) for part in parts]
        self._parts = [(part, each) for part, each in ours if each]
        self._masks: dict[bool, list[torch.Tensor]] = {}  # every layer of a kind sees the same

    def __call__(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        scale: float,
        sliding: bool = False,
    ) -> torch.Tensor:
        """Attend.

        Args:
            layer: whose KV is seen.
            query: [heads, s * count, head dim], row by row.
            key: likewise, of the KV heads.
            value: likewise.
            scale: of the scores.
            sliding: whether this layer sees only its sliding window.

        Returns:
            [s * count, heads, head dim].
        """
        if sliding not in self._masks:
            self._masks[sliding] = [
                _stream_mask(part.mask_for(sliding=sliding), part.num_slots, rows, self._count, query)
                for part, rows in self._parts
            ]
        outputs, first = [], 0
        for (part, rows), seen in zip(self._parts, self._masks[sliding], strict=True):
            num_rows = len(rows) * self._count
            ours = [each.narrow(1, first, num_rows) for each in (query, key, value)]
            first += num_rows
            keys = torch.cat((part.cache.keys[layer].narrow(1, 0, part.num_slots), ours[1]), 1)
            values = torch.cat((part.cache.values[layer].narrow(1, 0, part.num_slots), ours[2]), 1)
            outputs.append(_attend(ours[0], keys, values, seen, scale=scale, softcap=None).transpose(0, 1))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


class BothAttentions:
    """Attention of a forward's rows and, behind them, of streams that leave them in this layer.

    Args:
        attention: of the rows.
        streams: of the streams.
        num_rows: of the forward.
    """

    def __init__(self, attention: TreeAttention, streams: StreamAttention, num_rows: int) -> None:
        self._attention, self._streams, self._num_rows = attention, streams, num_rows

    def __call__(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **options: Any
    ) -> torch.Tensor:
        """As of the two; all of them `[..., rows and streams, head dim]`."""
        both, count = (query, key, value), self._num_rows
        rows = self._attention(layer, *(each[:, :count] for each in both), **options)
        return torch.cat((rows, self._streams(layer, *(each[:, count:] for each in both), **options)))


@functools.cache
def _up_to_each(count: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """[count, count]: 0 where a stream sees another of its row, HIDDEN where not."""
    return torch.full((count, count), HIDDEN, dtype=dtype, device=device).triu(1)


def _stream_mask(
    mask: torch.Tensor | None, num_slots: int, rows: list[int], count: int, like: torch.Tensor
) -> torch.Tensor:
    """[s * count, num_slots + s * count]: 0 where a stream of one of these rows sees, HIDDEN where not."""
    text = like.new_zeros(len(rows), num_slots) if mask is None else mask[rows]
    own = like.new_full((len(rows), count, len(rows), count), HIDDEN)
    places = torch.arange(len(rows), device=like.device)
    own[places, :, places, :] = _up_to_each(count, like.dtype, like.device)
    return torch.cat((text.repeat_interleave(count, 0), own.flatten(2).flatten(0, 1)), 1)


def _attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    scale: float,
    softcap: float | None,
) -> torch.Tensor:
    """[heads, n, head dim] of queries over [kv heads, slots, head dim]."""
    grouped = keys.shape[0] != query.shape[0]
    if not softcap:
        return F.scaled_dot_product_attention(
            query[None], keys[None], values[None], attn_mask=mask, scale=scale, enable_gqa=grouped
        )[0]
    if grouped:
        repeat = query.shape[0] // keys.shape[0]
        keys, values = keys.repeat_interleave(repeat, 0), values.repeat_interleave(repeat, 0)
    scores = torch.tanh(query @ keys.transpose(1, 2) * (scale / softcap)) * softcap
    if mask is not None:
        scores = scores + mask
    return scores.softmax(-1, dtype=torch.float32).to(values.dtype) @ values


def _mask(segment: Segment, dtype: torch.dtype, device: torch.device) -> torch.Tensor | None:
    """[n, slots]: 0 where a row sees, HIDDEN where not; None for a single row that sees everything."""
    num_tree = segment.start + len(segment.tokens) - segment.prefix
    if len(segment.seen) == 1 and segment.seen[0] == (1 << num_tree) - 1:
        return None
    num_bytes = (num_tree + 7) // 8
    packed = b"".join(seen.to_bytes(num_bytes, "little") for seen in segment.seen)
    bits = np.frombuffer(packed, np.uint8).reshape(-1, num_bytes)
    mask = np.zeros((len(segment.seen), segment.prefix + num_tree), np.float32)
    mask[:, segment.prefix :] = np.unpackbits(bits, axis=1, count=num_tree, bitorder="little")
    mask[:, segment.prefix :] -= 1.0
    mask[:, segment.prefix :] *= -HIDDEN
    return torch.from_numpy(mask).to(device=device, dtype=dtype)


def _windowed(
    segment: Segment, cache: TensorCache, mask: torch.Tensor | None, sliding_window: int | None
) -> torch.Tensor | None:
    if sliding_window is None or max(segment.positions) < sliding_window:
        return None
    shape = (len(segment.tokens), len(cache.positions))
    if mask is None:
        mask = torch.zeros(shape, dtype=cache.kv.dtype, device=cache.kv.device)
    held = torch.tensor(cache.positions, device=mask.device)
    rows = torch.tensor(list(segment.positions), device=mask.device)
    return mask.masked_fill(rows[:, None] - held[None, :] >= sliding_window, HIDDEN)
