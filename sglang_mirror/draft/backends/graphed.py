"""The draft as CUDA graphs, one for each of a few numbers of rows: the GPU computes, and waits for no host.

A forward takes the smallest graph that holds its rows, or several in turn. One copy brings the rows to the
device, one brings the candidates back. Requests keep the caches of the eager path: where they lie is part of
what is copied.

It serves plain drafts of Llama's kind. Streaming drafts, sliding windows and other models are computed
eagerly.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from sglang_mirror.core.roots import Candidates
from sglang_mirror.draft.backends.base import Said, Segment
from sglang_mirror.draft.backends.llama_loop import LlamaLoop
from sglang_mirror.draft.backends.packing import POSITION, SEEN, TOKEN, Packed, as_rows, pack
from sglang_mirror.draft.backends.static_llama import StaticLlama
from sglang_mirror.draft.backends.torch_backend import TorchBackend
from sglang_mirror_kernels.select import exit_topk

logger = logging.getLogger(__name__)

# Each costs some MiB and, at the start, the time of a few eager forwards.
BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192)
# What a target asks for by default, its kappa and one; and 64 nodes of a tree a word. When more is met,
# everything is captured again, once.
NUM_CANDIDATES = 9
NUM_WORDS = 16
ALIGNED = 16  # integers; Triton compiles once more for what begins elsewhere


class _Bucket:
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


class GraphedBackend(TorchBackend):
    """A model of Llama's kind as a draft; see `backends.base.Backend`.

    Without a GPU it computes the same eagerly, where Triton interprets its kernels.

    Args:
        model: as `TorchBackend` has it.
        name: for messages.
        loop: its weights.
        num_tokens: as `TorchBackend` has it.
        buckets: numbers of rows to capture, ascending.

    Raises:
        ValueError: the model's layers slide, or its draft streams.
        RuntimeError: it cannot be captured.
    """

    def __init__(
        self, model: Any, name: str, loop: LlamaLoop, *, num_tokens: int, buckets: Sequence[int] = BUCKETS
    ) -> None:
        super().__init__(model, name, loop, num_tokens=num_tokens)
        if loop.num_streams or any(layer.sliding for layer in loop.layers):
            raise ValueError("lookahead streams and sliding windows are computed eagerly")
        shape = self._shape
        self._model = StaticLlama(loop, self.max_len, shape.num_kv_heads)
        self._sizes = tuple(buckets)
        self._memory = torch.zeros(ALIGNED, dtype=shape.dtype, device=shape.device)
        self._logits = torch.empty(buckets[-1], self.vocab_size, dtype=shape.dtype, device=shape.device)
        self._no_children = torch.full((buckets[-1], 1), -1, device=shape.device)
        self._buckets: list[_Bucket] = []
        self._num_words = self._num_candidates = 0
        self._make_buckets(NUM_WORDS, min(NUM_CANDIDATES, num_tokens))

    def logits(self, segments: Sequence[Segment]) -> torch.Tensor:
        """As `TorchBackend.logits`."""
        packed = self._packed(segments, 1)
        parts = []
        for first, last, _ in self._run(packed):
            wanted = [row - first for row in packed.wanted if first <= row < last]
            parts.append(self._logits[wanted])
        return torch.cat(parts)

    def forward(self, segments: Sequence[Segment], num_candidates: int) -> list[list[Said]]:
        count = min(num_candidates, self._num_tokens)
        packed = self._packed(segments, count)
        found = np.concatenate([found.copy() for _, _, found in self._run(packed)], 1)
        tokens, logprobs = found[:, packed.wanted, :count]
        pairs = zip(tokens.tolist(), logprobs.view(np.float32).tolist(), strict=True)
        said = iter([Said(Candidates(tuple(ids), tuple(values))) for ids, values in pairs])
        return [[next(said) for _ in segment.wanted] for segment in segments]

    def replayed(self, num_rows: int) -> Callable[[], None]:
        """The device's part of the last forward that took the bucket for `num_rows`, to be timed."""
        graph = self._bucket_for(num_rows).graph
        assert graph is not None
        replay: Callable[[], None] = graph.replay
        return replay

    def _bucket_for(self, num_rows: int) -> _Bucket:
        return next(each for each in self._buckets if each.num_rows >= num_rows)

    def _packed(self, segments: Sequence[Segment], num_candidates: int) -> Packed:
        """The rows, once there are buckets that hold what they see and what is asked of them."""
        last = max(max(segment.positions) for segment in segments)
        if last >= self.max_len:
            raise ValueError(f"position {last}: {self.name} takes at most {self.max_len} tokens")
        packed = pack(segments, self._memory)
        num_words = len(packed.table) - SEEN
        if num_words > self._num_words or num_candidates > self._num_candidates:
            while num_words > self._num_words:
                self._num_words *= 2
            self._make_buckets(self._num_words, max(num_candidates, self._num_candidates))
        return packed

    def _run(self, packed: Packed) -> Iterator[tuple[int, int, np.ndarray[Any, np.dtype[np.int32]]]]:
        """Compute the rows; of each forward its first row, the row behind its last, and what was found."""
        num_rows, most = packed.table.shape[1], self._sizes[-1]
        for first in range(0, num_rows, most):
            last = min(first + most, num_rows)
            bucket = self._bucket_for(last - first)
            packed.fill(bucket.host_table.numpy(), first, last)
            with torch.inference_mode():
                bucket.table.copy_(bucket.host_table, non_blocking=True)
                if bucket.graph is None:
                    self._compute(bucket)
                else:
                    bucket.graph.replay()
                bucket.host_found.copy_(bucket.found, non_blocking=True)
            if self._memory.is_cuda:
                torch.cuda.current_stream().synchronize()
            yield first, last, bucket.host_found.numpy()[:, : last - first]

    def _compute(self, bucket: _Bucket) -> None:
        """What a graph holds: from the table to the candidates, both on the device."""
        num_rows, fields = bucket.num_rows, bucket.table
        logits = self._logits[:num_rows]
        rows = as_rows(fields, num_rows)
        tokens, positions = fields[TOKEN, :num_rows], fields[POSITION, :num_rows]
        self._model.logits(tokens, positions, rows, self._memory, logits)
        ids, logprobs = exit_topk(
            logits[:, : self._num_tokens], self._no_children[:num_rows], self._num_candidates
        )
        bucket.found[0].copy_(ids)
        bucket.found[1].view(torch.float32).copy_(logprobs)

    def _make_buckets(self, num_words: int, num_candidates: int) -> None:
        """Buffers and, on a GPU, graphs for trees of so many words and so many candidates a row."""
        self._num_words, self._num_candidates = num_words, num_candidates
        self._buckets = []  # the old graphs' memory is free before the new ones need it
        device = self._shape.device
        buckets = [_Bucket(num_rows, num_words, num_candidates, device) for num_rows in self._sizes]
        if device.type == "cuda":
            start_s = time.monotonic()
            self._capture(buckets)
            logger.info("%d graphs captured in %.1f s", len(buckets), time.monotonic() - start_s)
        self._buckets = buckets

    def _capture(self, buckets: Sequence[_Bucket]) -> None:
        """The largest first: the others find room in its memory, for no two run at once."""
        from triton.errors import TritonError  # noqa: PLC0415 - on a GPU only

        pool, side = torch.cuda.graph_pool_handle(), torch.cuda.Stream()
        try:
            for bucket in reversed(buckets):
                side.wait_stream(torch.cuda.current_stream())
                # Once outside: what is compiled, loaded or allocated at a first call cannot be captured.
                with torch.inference_mode(), torch.cuda.stream(side):
                    self._compute(bucket)
                torch.cuda.current_stream().wait_stream(side)
                graph = torch.cuda.CUDAGraph()
                with (
                    torch.inference_mode(),
                    torch.cuda.graph(graph, pool=pool, stream=side, capture_error_mode="thread_local"),
                ):
                    self._compute(bucket)
                bucket.graph = graph
        except TritonError as error:
            raise RuntimeError(f"a kernel does not compile: {error}") from error
