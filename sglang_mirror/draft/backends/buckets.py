"""A computation over rows as CUDA graphs, one for each of a few numbers of rows.

A forward takes the smallest graph that holds its rows, or several in turn. One copy brings the rows to the
device, one brings the candidates back.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from sglang_mirror.draft.backends.packing import SEEN, Packed
from sglang_mirror_kernels.building import building

logger = logging.getLogger(__name__)

# What a target asks for by default, its kappa and one; and 64 slots of a tree a word. For more everything is
# captured again, at the Hello that asks for it. A word costs each forward's copy 8 bytes a row.
NUM_CANDIDATES = 9
NUM_WORDS = 16
ALIGNED = 16  # integers; Triton compiles once more for what begins elsewhere

Found = np.ndarray[Any, np.dtype[np.int32]]


class Bucket:
    """The buffers of a forward of up to `num_rows` rows, and its graph.

    Attributes:
        num_rows: that it computes, used or not.
        table: what `packing` describes, on the device, [SEEN + words, num_rows or some more].
        host_table: the same, pinned.
        found: ids, and their float32 log-probabilities' bits, int32 [2, num_rows, candidates], on the device.
        host_found: the same, pinned.
        graph: None where there are none.
    """

    def __init__(self, num_rows: int, num_words: int, num_candidates: int, device: torch.device) -> None:
        self.num_rows = num_rows
        shape = (SEEN + num_words, -(-num_rows // ALIGNED) * ALIGNED)
        pinned = device.type == "cuda"
        self.table = torch.zeros(shape, dtype=torch.int64, device=device)
        self.host_table = torch.zeros(shape, dtype=torch.int64, pin_memory=pinned)
        results = (2, num_rows, num_candidates)
        self.found = torch.zeros(results, dtype=torch.int32, device=device)
        self.host_found = torch.zeros(results, dtype=torch.int32, pin_memory=pinned)
        self.graph: torch.cuda.CUDAGraph | None = None


class Buckets:
    """One computation in all sizes.

    Args:
        compute: what a graph holds: from a bucket's table to what it has found, both on the device.
        sizes: numbers of rows, ascending.
        num_candidates: to find for each row, until more are asked for.
        device: where it computes; without a GPU eagerly.

    Attributes:
        num_words: of a row's bits that there is room for.
        num_candidates: found for each row.
        buckets: one a size, ascending.

    Raises:
        RuntimeError: it cannot be captured.
    """

    def __init__(
        self,
        compute: Callable[[Bucket], None],
        sizes: Sequence[int],
        *,
        num_candidates: int,
        device: torch.device,
    ) -> None:
        self._compute, self._sizes, self._device = compute, tuple(sizes), device
        self.num_words = self.num_candidates = 0
        self.buckets: list[Bucket] = []
        self.make(NUM_WORDS, num_candidates)

    def of(self, num_rows: int) -> Bucket:
        """The smallest that holds so many rows."""
        return next(each for each in self.buckets if each.num_rows >= num_rows)

    def run(
        self, packed: Packed, num_candidates: int, before: Callable[[int, int], None] | None = None
    ) -> Iterator[tuple[int, int, Found]]:
        """Compute the rows.

        Args:
            packed: the rows.
            num_candidates: to find for each, or more.
            before: called before each forward, with what is yielded after it.

        Yields:
            of each forward its first row, the row behind its last, and what was found, until the next.
        """
        self.make_room(len(packed.table) - SEEN, num_candidates)
        num_rows, most = packed.table.shape[1], self._sizes[-1]
        for first in range(0, num_rows, most):
            last = min(first + most, num_rows)
            bucket = self.of(last - first)
            packed.fill(bucket.host_table.numpy(), first, last)
            with torch.inference_mode():
                if before is not None:
                    before(first, last)
                bucket.table.copy_(bucket.host_table, non_blocking=True)
                if bucket.graph is None:
                    self._compute(bucket)
                else:
                    bucket.graph.replay()
                bucket.host_found.copy_(bucket.found, non_blocking=True)
            if self._device.type == "cuda":
                torch.cuda.current_stream().synchronize()
            yield first, last, bucket.host_found.numpy()[:, : last - first]

    def make(self, num_words: int, num_candidates: int) -> None:
        """Buffers and, on a GPU, graphs for trees of so many words and so many candidates a row."""
        self.num_words, self.num_candidates = num_words, num_candidates
        self.buckets = []  # the old graphs' memory is free before the new ones need it
        buckets = [Bucket(num_rows, num_words, num_candidates, self._device) for num_rows in self._sizes]
        if self._device.type == "cuda":
            start_s = time.monotonic()
            self._capture(buckets)
            logger.info("%d graphs captured in %.1f s", len(buckets), time.monotonic() - start_s)
        self.buckets = buckets

    def make_room(self, num_words: int, num_candidates: int) -> None:
        """For so many at least.

        Raises:
            RuntimeError: it cannot be captured; there is room for as many as before, or, where that cannot be
                captured again either, for as many the next time.
        """
        if self.buckets and num_words <= self.num_words and num_candidates <= self.num_candidates:
            return
        words = self.num_words
        while words < num_words:
            words *= 2
        before = self.num_words, self.num_candidates
        try:
            self.make(words, max(num_candidates, self.num_candidates))
            return
        except RuntimeError as error:
            why = str(error)
        # Behind the handler: an error's traceback holds the new buffers and graphs, and there may be no room
        # for both.
        self.make(*before)
        raise RuntimeError(why)

    def _capture(self, buckets: Sequence[Bucket]) -> None:
        """The largest first: the others find room in its memory, for no two run at once."""
        pool, side = torch.cuda.graph_pool_handle(), torch.cuda.Stream()
        with building(), torch.inference_mode():
            for bucket in reversed(buckets):
                side.wait_stream(torch.cuda.current_stream())
                # Once outside: what is compiled, loaded or allocated at a first call cannot be captured.
                with torch.cuda.stream(side):
                    self._compute(bucket)
                torch.cuda.current_stream().wait_stream(side)
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, pool=pool, stream=side, capture_error_mode="thread_local"):
                    self._compute(bucket)
                bucket.graph = graph
