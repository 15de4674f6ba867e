"""A forward's rows as one table of integers, so that one copy takes them to the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import torch

from sglang_mirror.draft.backends.base import Segment
from sglang_mirror.draft.backends.kv_cache import TensorCache
from sglang_mirror_kernels.rows import BLOCK_ROWS, WORD_BITS, TreeRows

TOKEN, POSITION, BASE, CAPACITY, SLOT, PREFIX, NUM_SLOTS, NUM_BLOCKS, BLOCK_FIRST, BLOCK_LEN, SEEN = range(11)

Table = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Packed:
    """The rows of a forward, segment by segment.

    Attributes:
        table: a line a field, a column a row, int64 [SEEN + words, rows]; the blocks' lines are not filled.
        ends: of the segments, in rows.
        wanted: the rows whose candidates are wanted.
    """

    table: Table
    ends: list[int]
    wanted: list[int]

    def fill(self, table: Table, first: int, last: int) -> None:
        """Write the rows first..last - 1 to the start of a larger `table`, and zeros behind them."""
        num_rows = last - first
        table[:, num_rows:] = 0
        table[: len(self.table), :num_rows] = self.table[:, first:last]
        table[len(self.table) :, :num_rows] = 0
        block, start = 0, first
        for end in self.ends:
            for row in range(start, min(end, last), BLOCK_ROWS):
                table[BLOCK_FIRST, block] = row - first
                table[BLOCK_LEN, block] = min(BLOCK_ROWS, end - row, last - row)
                block += 1
            start = max(start, end)
        table[NUM_BLOCKS, 0] = block


def pack(segments: Sequence[Segment], memory: torch.Tensor) -> Packed:
    """Make room for the rows in their requests' KV, and note where it is.

    Args:
        segments: as `Backend.forward` has them; their caches are `TensorCache`s.
        memory: what addresses are counted from; of the KV's dtype and device.
    """
    most_bits = max(max(segment.seen).bit_length() for segment in segments)
    num_words = -(-most_bits // WORD_BITS)
    num_rows = sum(len(segment.tokens) for segment in segments)
    table = np.empty((SEEN + num_words, num_rows), np.int64)
    ends: list[int] = []
    wanted: list[int] = []
    first = 0
    for segment in segments:
        cache = cast("TensorCache", segment.cache)
        cache.reserve(segment.start, segment.positions)
        count = len(segment.tokens)
        part = table[:, first : first + count]
        part[TOKEN], part[POSITION] = segment.tokens, segment.positions
        part[BASE] = (cache.kv.data_ptr() - memory.data_ptr()) // cache.kv.element_size()
        part[CAPACITY] = cache.kv.shape[3]
        part[SLOT] = range(segment.start, segment.start + count)
        part[PREFIX] = segment.prefix
        part[NUM_SLOTS] = [segment.prefix + seen.bit_length() for seen in segment.seen]
        words = b"".join(seen.to_bytes(8 * num_words, "little") for seen in segment.seen)
        part[SEEN:] = np.frombuffer(words, "<i8").reshape(count, num_words).T
        wanted += [first + row for row in segment.wanted]
        first += count
        ends.append(first)
    return Packed(table, ends, wanted)


def stream_rows(segment: Segment, rows: Sequence[int], count: int) -> Segment:
    """The streams of some of a segment's rows, as rows of their own in the slots behind it.

    A stream sees what its row sees, the streams of that row before it, and itself. The next forward writes
    over them.

    Args:
        segment: computed; the tokens of the result mean nothing.
        rows: of it, ascending.
        count: streams a row.
    """
    start = segment.start + len(segment.tokens)
    first = start - segment.prefix  # the bit of the first of them
    places = [(place, row, stream) for place, row in enumerate(rows) for stream in range(count)]
    return Segment(
        cache=segment.cache,
        tokens=[0] * len(places),
        positions=[segment.positions[row] + stream + 1 for _, row, stream in places],
        start=start,
        prefix=segment.prefix,
        seen=[
            segment.seen[row] | ((2 << stream) - 1) << first + place * count for place, row, stream in places
        ],
        wanted=range(len(places)),
    )


def as_rows(table: torch.Tensor, num_rows: int) -> TreeRows:
    """The first `num_rows` columns of a table on the device."""
    fields = table[:, :num_rows]
    return TreeRows(
        base=fields[BASE],
        capacity=fields[CAPACITY],
        slot=fields[SLOT],
        prefix=fields[PREFIX],
        num_slots=fields[NUM_SLOTS],
        seen=fields[SEEN:],
        num_blocks=fields[NUM_BLOCKS, :1],
        block_first=fields[BLOCK_FIRST],
        block_len=fields[BLOCK_LEN],
    )
