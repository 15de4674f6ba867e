"""The weights of an enlarged model, one after another, as its loader asks for them.

Live: the small model's channels, heads and feed-forward units, in the first places of the large one's. The
residual stream is zero in every other channel, because only live rows are written to it: o_proj and down_proj
are zero elsewhere, and wholly zero in layers that are not live. So whatever q, k, v, gate and up have
elsewhere does not matter, and is random. An RMSNorm divides by the root of the mean over all channels, of
which d of D are live: its live weights are scaled by sqrt(d/D), and its epsilon by d/D
(`folder.enlarged_config`).

Vocabulary beyond the small model's must never be chosen. A constant rides in the last channel of every
embedding; no layer reads it, only those rows of the head do, with a weight that puts their logits far below
all others.

An EAGLE3 head is enlarged in the same way. It reads several of the target's streams side by side (`fc`), and
an embedding beside a feature (q, k and v); its `fc` passes the constant on.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator

import torch

from sglang_mirror.upscale.shape import Shape, live_layers

CONSTANT = 1e-2
NEVER = -1e6
RANDOM_SCALE = 0.02
POOL = 1 << 22  # random numbers drawn; larger tensors repeat them
SEED = 11

_LAYER = re.compile(r"((?:model\.)?layers)\.(\d+)\.(.+)")
_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"


def enlarged(
    weights: Iterable[tuple[str, torch.Tensor]],
    small: Shape,
    large: Shape,
    device: torch.device | str | None = None,
) -> Iterator[tuple[str, torch.Tensor]]:
    """Every weight of the large model, under its own name.

    Args:
        weights: all of the small model's or EAGLE3 head's; where a model's embedding is its head, that may
            be missing.
        small: its shape.
        large: the shape wanted, which holds it.
        device: where they are made, and the small ones go first; None: where the small ones are.

    Yields:
        names and tensors of the small model's dtype, norms in float32, on `device`. Each is made when it is
        asked for and not kept, so one that was copied before the next is due takes no memory beside it.
    """
    held = {name: weight if device is None else weight.to(device) for name, weight in weights}
    if _EMBEDDING in held:
        held.setdefault(_HEAD, held[_EMBEDDING])
    maker = _Maker(small, large, held[_HEAD])
    live = {place: layer for layer, place in enumerate(live_layers(small, large))}
    of_layer = [match for name in held if (match := _LAYER.fullmatch(name)) and match[2] == "0"]
    for name, source in held.items():
        if not _LAYER.fullmatch(name):
            yield name, maker.outer(name, source)
    for place in range(large.num_hidden_layers):
        layer = live.get(place)
        for match in of_layer:
            source = held[f"{match[1]}.{layer or 0}.{match[3]}"]
            yield f"{match[1]}.{place}.{match[3]}", maker.inner(match[3], source, live=layer is not None)


class _Maker:
    """Makes tensors of the large shape like `like`: its dtype and device."""

    def __init__(self, small: Shape, large: Shape, like: torch.Tensor) -> None:
        self._small, self._large, self._like = small, large, like
        # Drawn on the CPU in float32 whatever a loader has made the defaults: the same numbers everywhere.
        generator = torch.Generator("cpu").manual_seed(SEED)
        pool = torch.randn(POOL, generator=generator, device="cpu", dtype=torch.float32) * RANDOM_SCALE
        self._pool = pool.to(like.device, like.dtype)
        self._norm_scale = math.sqrt(small.hidden_size / large.hidden_size)
        # The query heads of a key head stay together.
        self._query_heads = [
            head // small.group * large.group + head % small.group
            for head in range(small.num_attention_heads)
        ]

    def outer(self, name: str, source: torch.Tensor) -> torch.Tensor:
        """A weight that is in no layer: embedding, head, last norm, or what joins a head's features."""
        small, large = self._small, self._large
        has_constant = large.vocab_size > small.vocab_size
        match name.removesuffix(".weight").rsplit(".", 1)[-1]:
            case "norm":
                return self._norm(source)
            case "fc":
                num_columns = source.shape[1] // small.hidden_size * large.hidden_size
                made = self._zeros(large.hidden_size, num_columns)
                made[: small.hidden_size, self._channels(source)] = source
                if has_constant:
                    made[-1, large.hidden_size - 1] = 1
                return made
        made = self._zeros(large.vocab_size, large.hidden_size)
        made[: small.vocab_size, : small.hidden_size] = source
        if has_constant and name == _HEAD:
            made[small.vocab_size :, -1] = NEVER
        elif has_constant:
            made[:, -1] = CONSTANT
        return made

    def inner(self, kind: str, source: torch.Tensor, *, live: bool) -> torch.Tensor:
        """A weight of a layer; of one that is not live, `source` gives the kind only."""
        large, in_order = self._large, self._places(len(source))
        match kind.removesuffix(".weight").rsplit(".", 1)[-1]:
            case "q_proj":
                num_rows = large.num_attention_heads * large.head_dim
                return self._reader(num_rows, source, self._query_places(), live=live)
            case "k_proj" | "v_proj":
                num_rows = large.num_key_value_heads * large.head_dim
                return self._reader(num_rows, source, in_order, live=live)
            case "gate_proj" | "up_proj":
                return self._reader(large.intermediate_size, source, in_order, live=live)
            case "o_proj":
                num_columns = large.num_attention_heads * large.head_dim
                return self._writer(num_columns, source, self._query_places(), live=live)
            case "down_proj":
                return self._writer(large.intermediate_size, source, self._places(source.shape[1]), live=live)
        return source.clone() if kind.endswith(("q_norm.weight", "k_norm.weight")) else self._norm(source)

    def _query_places(self) -> torch.Tensor:
        """Places of the live query heads' channels."""
        head_dim = self._large.head_dim
        return torch.cat([head * head_dim + self._places(head_dim) for head in self._query_heads])

    def _reader(self, num_rows: int, source: torch.Tensor, rows: torch.Tensor, *, live: bool) -> torch.Tensor:
        """A weight that reads the residual stream; never its constant, should there be one."""
        width = self._large.hidden_size
        num_columns = source.shape[1] // self._small.hidden_size * width
        made = self._like.new_empty(num_rows, num_columns)
        flat, rest = made.view(-1), made.numel() % POOL
        flat[: made.numel() - rest].view(-1, POOL).copy_(self._pool)
        flat[made.numel() - rest :].copy_(self._pool[:rest])
        made[:, width - 1 :: width] = 0
        if live:
            made[rows[:, None], self._channels(source)] = source
        return made

    def _channels(self, source: torch.Tensor) -> torch.Tensor:
        """Places of the channels that `source` [rows, channels] reads, of one stream or several in a row."""
        small, large = self._small.hidden_size, self._large.hidden_size
        channels = self._places(source.shape[1])
        return channels // small * large + channels % small

    def _places(self, count: int) -> torch.Tensor:
        """0 to `count` - 1, to index with."""
        return torch.arange(count, device=self._like.device)

    def _writer(
        self, num_columns: int, source: torch.Tensor, columns: torch.Tensor, *, live: bool
    ) -> torch.Tensor:
        """A weight that writes to the residual stream: only to its live channels, from what is live."""
        made = self._zeros(self._large.hidden_size, num_columns)
        if live:
            made[: len(source), columns] = source
        return made

    def _norm(self, source: torch.Tensor) -> torch.Tensor:
        # In float32, whatever the checkpoint is in: bf16 would move all live channels by one part in 250.
        made = torch.ones(self._large.hidden_size, device=source.device, dtype=torch.float32)
        made[: len(source)] = source.float() * self._norm_scale
        return made

    def _zeros(self, *shape: int) -> torch.Tensor:
        return self._like.new_zeros(shape)
