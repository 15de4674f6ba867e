"""The draft as CUDA graphs, so that the GPU computes and waits for no host; see `buckets`.

Requests keep the caches of the eager path: where they lie is part of what is copied to the device. A draft's
lookahead streams are a second computation with graphs of its own: which rows they follow is known once the
candidates of the first are.

It serves drafts of Llama's kind. Sliding windows and other models are computed eagerly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from sglang_mirror.core.roots import Candidates
from sglang_mirror.draft.backends.base import Segment
from sglang_mirror.draft.backends.buckets import ALIGNED, NUM_CANDIDATES, Bucket, Buckets, Found
from sglang_mirror.draft.backends.fused_llama import FusedLlama
from sglang_mirror.draft.backends.llama_loop import LlamaLoop
from sglang_mirror.draft.backends.packing import POSITION, TOKEN, Packed, as_rows, pack, stream_rows
from sglang_mirror.draft.backends.static_llama import StaticLlama
from sglang_mirror.draft.backends.torch_backend import TorchBackend
from sglang_mirror_kernels.rows import WORD_BITS
from sglang_mirror_kernels.select import exit_topk

# Each costs some MiB and, at the start, the time of a few eager forwards.
BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192)


class GraphedBackend(TorchBackend):
    """A model of Llama's kind as a draft; see `backends.base.Backend`.

    Without a GPU it computes the same eagerly, where Triton interprets its kernels.

    Args:
        model: as `TorchBackend` has it.
        name: for messages.
        loop: its weights.
        num_tokens: as `TorchBackend` has it.
        buckets: numbers of rows to capture, ascending.
        fused: with merged kernels.

    Raises:
        ValueError: the model's layers slide, or the merged kernels cannot do what it asks for.
        RuntimeError: it cannot be captured.
    """

    most_along = 0  # the streams have graphs of their own

    def __init__(
        self,
        model: Any,
        name: str,
        loop: LlamaLoop,
        *,
        num_tokens: int,
        buckets: Sequence[int] = BUCKETS,
        fused: bool = False,
    ) -> None:
        super().__init__(model, name, loop, num_tokens=num_tokens)
        if any(layer.sliding for layer in loop.layers):
            raise ValueError("its layers attend in sliding windows, which are computed eagerly")
        shape, most, streams = self._shape, buckets[-1], loop.num_streams
        self.rows_at_once = most
        width = loop.embedding.shape[1]
        static = loop, self.max_len, shape.num_kv_heads
        self._model = FusedLlama(*static, num_rows=most) if fused else StaticLlama(*static)
        held: dict[str, Any] = {"dtype": shape.dtype, "device": shape.device}
        self._memory = torch.zeros(ALIGNED, **held)
        self._logits = torch.empty(most, self.vocab_size, **held)
        self._no_children = torch.full((most, 1), -1, device=shape.device)
        # Where the rows of a forward leave for their streams, and the states that streams were asked after.
        self._forks = torch.zeros(most if streams else 0, width, **held)
        self._asked = torch.zeros(most // streams if streams else 0, width, **held)
        self._states = self._forks  # of all rows of the last forward
        self._last: Sequence[Segment] = ()
        usual: dict[str, Any] = {"num_candidates": min(NUM_CANDIDATES, num_tokens), "device": shape.device}
        self._main = Buckets(self._compute, buckets, **usual)
        sizes = [streams * size for size in buckets if streams * size <= most]
        self._streams = Buckets(self._compute_streams, sizes, **usual) if streams else None

    def prepare(self, num_candidates: int, num_seen: int) -> None:
        words = -(-num_seen * (1 + self._runner.num_streams) // WORD_BITS)
        for buckets in filter(None, (self._main, self._streams)):
            buckets.make_room(words, min(num_candidates, self.num_tokens))

    def logits(self, segments: Sequence[Segment], streamed: Sequence[int] = ()) -> torch.Tensor:
        """As `TorchBackend.logits`."""
        assert not streamed
        packed = self._packed(segments)
        parts = [self._logits[:count].clone() for count, _ in self._rows(segments, packed, 1)]
        return torch.cat(parts)[packed.wanted]

    def ahead(self, rows: Sequence[int]) -> torch.Tensor:
        """As `TorchBackend.ahead`."""
        parts = [self._logits[:count].clone() for count, _ in self._stream_rows(rows, 1)]
        return torch.cat(parts).unflatten(0, (-1, self._runner.num_streams))

    def replayed(self, num_rows: int) -> Callable[[], None]:
        """The device's part of the last forward that took the bucket for `num_rows`, to be timed."""
        graph = self._main.of(num_rows).graph
        assert graph is not None
        replay: Callable[[], None] = graph.replay
        return replay

    def _candidates_of(
        self, segments: Sequence[Segment], streamed: Sequence[int], count: int
    ) -> list[Candidates]:
        assert not streamed
        packed = self._packed(segments)
        found = np.concatenate([found.copy() for _, found in self._rows(segments, packed, count)], 1)
        return _as_candidates(found[:, packed.wanted, :count])

    def _candidates_ahead(self, rows: Sequence[int], count: int) -> list[Candidates]:
        found = np.concatenate([found.copy() for _, found in self._stream_rows(rows, count)], 1)
        return _as_candidates(found[:, :, :count])

    def _forget(self) -> None:
        self._states, self._last = self._forks, ()

    def _packed(self, segments: Sequence[Segment]) -> Packed:
        last = max(max(segment.positions) for segment in segments)
        if last >= self.max_len:
            raise ValueError(f"position {last}: {self.name} takes at most {self.max_len} tokens")
        return pack(segments, self._memory)

    def _rows(self, segments: Sequence[Segment], packed: Packed, count: int) -> Iterator[tuple[int, Found]]:
        """Compute the rows; of each forward their number, and what was found, until the next."""
        states = []
        for first, last, found in self._main.run(packed, count):
            if self._streams is not None:
                states.append(self._forks[: last - first].clone())
            yield last - first, found
        if states:
            self._states, self._last = torch.cat(states), segments

    def _stream_rows(self, rows: Sequence[int], count: int) -> Iterator[tuple[int, Found]]:
        """Compute the streams of these rows of the last forward, ascending; yields as `_rows` does."""
        assert self._streams is not None
        streams, first_row = self._runner.num_streams, 0
        states = self._states.index_select(0, torch.tensor(rows, device=self._states.device))
        behind = []
        for segment in self._last:
            asked = [row - first_row for row in rows if 0 <= row - first_row < len(segment.tokens)]
            behind += [stream_rows(segment, asked, streams)] if asked else []
            first_row += len(segment.tokens)

        def bring(first: int, last: int) -> None:
            self._asked[: (last - first) // streams].copy_(states[first // streams : last // streams])

        for first, last, found in self._streams.run(pack(behind, self._memory), count, bring):
            yield last - first, found

    def _compute(self, bucket: Bucket) -> None:
        num_rows, fields = bucket.num_rows, bucket.table
        logits, forks = self._logits[:num_rows], self._forks[:num_rows]
        tokens, positions = fields[TOKEN, :num_rows], fields[POSITION, :num_rows]
        rows = as_rows(fields, num_rows)
        self._model.logits(tokens, positions, rows, self._memory, out=logits, forks=forks)
        self._select(bucket, logits)

    def _compute_streams(self, bucket: Bucket) -> None:
        num_rows, fields = bucket.num_rows, bucket.table
        logits, states = self._logits[:num_rows], self._asked[: num_rows // self._runner.num_streams]
        positions, rows = fields[POSITION, :num_rows], as_rows(fields, num_rows)
        self._model.ahead(states, positions, rows, self._memory, out=logits)
        self._select(bucket, logits)

    def _select(self, bucket: Bucket, logits: torch.Tensor) -> None:
        exit_topk(
            logits[:, : self.num_tokens],
            self._no_children[: bucket.num_rows],
            bucket.found.shape[2],
            (bucket.found[0], bucket.found[1].view(torch.float32)),
        )


def _as_candidates(found: Found) -> list[Candidates]:
    """Of ids and their log-probabilities' bits, [2, rows, candidates]."""
    tokens, logprobs = found
    pairs = zip(tokens.tolist(), logprobs.view(np.float32).tolist(), strict=True)
    return [Candidates(tuple(ids), tuple(values)) for ids, values in pairs]
