"""Attention of tree rows: each request's rows see its prefix, their ancestors and themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

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
    wanted: list[int]  # of its rows, from 0
    mask: torch.Tensor | None  # [n, num_slots], 0 or HIDDEN; None if a single row sees everything
    windowed: torch.Tensor | None  # the same under the sliding window, where that hides anything
    ahead: dict[bool, torch.Tensor] = field(default_factory=dict)  # of the streams; whether windowed

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
            self._parts.append(
                _Part(first, last, segment.start, num_slots, cache, list(segment.wanted), mask, windowed)
            )
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

    def streams(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        scale: float,
        sliding: bool = False,
    ) -> torch.Tensor:
        """Attend for the streams of the wanted rows, whose layer `layer` has been called for the main rows.

        A stream sees what its row sees, the streams of that row before it, and itself; nothing is kept.

        Args:
            layer: whose KV is seen.
            query: [heads, w * count, head dim], row by row.
            key: likewise, of the KV heads.
            value: likewise.
            scale: of the scores.
            sliding: whether this layer sees only its sliding window.

        Returns:
            [w * count, heads, head dim].
        """
        count = query.shape[1] // sum(len(part.wanted) for part in self._parts)
        outputs, first = [], 0
        for part in self._parts:
            num_rows = len(part.wanted) * count
            if not num_rows:
                continue
            ours = [each.narrow(1, first, num_rows) for each in (query, key, value)]
            first += num_rows
            keys = torch.cat((part.cache.keys[layer].narrow(1, 0, part.num_slots), ours[1]), 1)
            values = torch.cat((part.cache.values[layer].narrow(1, 0, part.num_slots), ours[2]), 1)
            if sliding not in part.ahead:  # every layer of a kind sees the same
                part.ahead[sliding] = _stream_mask(part, part.mask_for(sliding=sliding), count, query)
            seen = part.ahead[sliding]
            outputs.append(_attend(ours[0], keys, values, seen, scale=scale, softcap=None).transpose(0, 1))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _stream_mask(part: _Part, mask: torch.Tensor | None, count: int, like: torch.Tensor) -> torch.Tensor:
    """[w * count, num_slots + w * count]: 0 where a stream sees, HIDDEN where not."""
    num_wanted = len(part.wanted)
    text = like.new_zeros(num_wanted, part.num_slots) if mask is None else mask[part.wanted]
    block = torch.full((count, count), HIDDEN, dtype=like.dtype, device=like.device).triu(1)
    own = like.new_full((num_wanted, count, num_wanted, count), HIDDEN)
    places = torch.arange(num_wanted, device=like.device)
    own[places, :, places, :] = block
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
