"""The draft in PyTorch: weights and layers from transformers, attention and KV cache ours."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Protocol, cast

import torch

from sglang_mirror.core.roots import Candidates
from sglang_mirror.draft.backends.attention import TreeAttention
from sglang_mirror.draft.backends.base import Said, Segment
from sglang_mirror.draft.backends.confirmed import last_confirmed
from sglang_mirror.draft.backends.kv_cache import KVShape, TensorCache


class TreeModel(Protocol):
    """A way to run a model's layers.

    Attributes:
        num_streams: lookahead streams; 0 of a plain draft.
    """

    num_streams: int

    def logits(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        attention: TreeAttention,
        wanted: torch.Tensor,
        *,
        streamed: Sequence[int] = (),
    ) -> torch.Tensor:
        """Logits of a forward of `tokens` and `positions` [rows].

        Args:
            tokens: of the rows.
            positions: of the rows.
            attention: of the rows.
            wanted: rows [w], and streams, numbered behind the rows.
            streamed: rows whose streams are computed along, ascending; of a streaming draft only.

        Returns:
            [w, V]
        """

    def ahead(self, rows: Sequence[int]) -> torch.Tensor:
        """Logits [s, num_streams, V] of the streams of these rows [s] of the last forward, ascending."""

    def forget(self) -> None:
        """Let go what `ahead` would have needed, the requests' KV with it."""


class TorchBackend:
    """A transformers model as a draft; see `backends.base.Backend`.

    Args:
        model: from `AutoModelForCausalLM`, in evaluation mode, on its device.
        name: for messages.
        runner: how to run it.
        num_tokens: the tokenizer's ids are below it; rows that only pad the vocabulary are never proposed.

    Attributes:
        num_tokens: as given.
    """

    # Rows and streams of a forward up to which every row's streams are computed along with it: a few more
    # cost less than reading the head once more, for the streams of the last right row of each branch alone.
    most_along = 16
    rows_at_once: int | None = None

    def __init__(self, model: Any, name: str, runner: TreeModel, *, num_tokens: int) -> None:
        config = model.config.get_text_config()
        weight = next(model.parameters())
        heads = config.num_attention_heads
        self.name = name
        self.device = str(weight.device)
        self.max_len = int(config.max_position_embeddings)
        self.vocab_size = int(config.vocab_size)
        self.num_tokens = num_tokens
        self._runner = runner
        self._sliding_window: int | None = getattr(config, "sliding_window", None)
        self._shape = KVShape(
            num_layers=config.num_hidden_layers,
            num_kv_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
            dtype=weight.dtype,
            device=weight.device,
        )

    def prepare(self, num_candidates: int, num_seen: int) -> None:
        """It computes eagerly, whatever is asked for."""

    def new_cache(self, num_tokens: int = 0) -> TensorCache:
        return TensorCache(self._shape, num_tokens)

    def reserve(self, segment: Segment) -> None:
        behind = segment.start + len(segment.tokens) + len(segment.streamed) * self._runner.num_streams
        cast("TensorCache", segment.cache).make_room(segment.start, behind)

    def logits(self, segments: Sequence[Segment], streamed: Sequence[int] = ()) -> torch.Tensor:
        """Logits [w, V] of all wanted rows, segment by segment; every row's KV is written.

        Args:
            segments: the rows.
            streamed: rows of the forward, ascending, whose streams' logits follow those of all rows.
        """
        device = self._shape.device
        tokens: list[int] = []
        positions: list[int] = []
        wanted: list[int] = []
        for segment in segments:
            wanted += [len(tokens) + row for row in segment.wanted]
            tokens += segment.tokens
            positions += segment.positions
        wanted += range(len(tokens), len(tokens) + len(streamed) * self._runner.num_streams)
        attention = TreeAttention(
            segments, dtype=self._shape.dtype, device=device, sliding_window=self._sliding_window
        )
        with torch.inference_mode():
            rows = torch.tensor((tokens, positions), device=device)
            last = torch.tensor(wanted, dtype=torch.long, device=device)
            return self._runner.logits(rows[0], rows[1], attention, last, streamed=streamed)

    def ahead(self, rows: Sequence[int]) -> torch.Tensor:
        """Logits [s, num_streams, V] of the streams of these rows [s] of the last forward, ascending."""
        with torch.inference_mode():
            return self._runner.ahead(rows)

    def forward(self, segments: Sequence[Segment], num_candidates: int) -> list[list[Said]]:
        try:
            return self._said(segments, num_candidates)
        finally:
            self._forget()

    def _forget(self) -> None:
        """Nobody asks for streams of the last forward any more, whose requests may end before the next."""
        self._runner.forget()

    def _said(self, segments: Sequence[Segment], num_candidates: int) -> list[list[Said]]:
        count, streams = min(num_candidates, self.num_tokens), self._runner.num_streams
        asked = [_streamed(segment) if streams else [] for segment in segments]
        rows = _rows_of(segments, asked)
        along = len(rows) * (1 + streams) <= self.most_along
        following = iter(self._candidates_of(segments, rows if along else (), count))
        found = [[next(following) for _ in segment.wanted] for segment in segments]
        if not along:
            asked = [last_confirmed(segment, ours) for segment, ours in zip(segments, found, strict=True)]
            rows = _rows_of(segments, asked)
            following = iter(self._candidates_ahead(rows, count) if rows else ())
        ahead = [{place: tuple(itertools.islice(following, streams)) for place in places} for places in asked]
        return [
            [Said(said, guesses.get(place, ())) for place, said in enumerate(ours)]
            for ours, guesses in zip(found, ahead, strict=True)
        ]

    def _candidates_of(
        self, segments: Sequence[Segment], streamed: Sequence[int], count: int
    ) -> list[Candidates]:
        """The most probable tokens after all wanted rows, then those of the streams; see `logits`."""
        return self._candidates(self.logits(segments, streamed), count)

    def _candidates_ahead(self, rows: Sequence[int], count: int) -> list[Candidates]:
        """Those of the streams of these rows of the last forward, row by row."""
        return self._candidates(self.ahead(rows).flatten(0, 1), count)

    def _candidates(self, logits: torch.Tensor, count: int) -> list[Candidates]:
        """The most probable tokens of each of [rows, V]."""
        with torch.inference_mode():
            kept = logits[:, : self.num_tokens]
            tokens, logprobs = _most_probable(torch.log_softmax(kept, -1, dtype=torch.float32), count)
        pairs = zip(tokens.tolist(), logprobs.tolist(), strict=True)
        return [Candidates(tuple(ids), tuple(values)) for ids, values in pairs]


def _streamed(segment: Segment) -> list[int]:
    """Places among the wanted rows of those whose streams are wanted."""
    rows = set(segment.streamed)
    return [place for place, row in enumerate(segment.wanted) if row in rows]


def _rows_of(segments: Sequence[Segment], places: Sequence[Sequence[int]]) -> list[int]:
    """Rows of the forward, by their places among their segments' wanted ones."""
    rows, first = list[int](), 0
    for segment, ours in zip(segments, places, strict=True):
        rows += [first + segment.wanted[place] for place in ours]
        first += len(segment.tokens)
    return rows


def _most_probable(logprobs: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `count` most probable ids of [rows, V], best first, and their log-probabilities.

    To sort after the selection halves the time of `topk` on a CPU (16 x 4096: 62 us instead of 125).
    """
    values, ids = torch.topk(logprobs, count, dim=-1, sorted=False)
    values, order = values.sort(dim=-1, descending=True)
    return ids.gather(1, order), values
