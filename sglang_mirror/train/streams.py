"""Lookahead streams on a causal language model (speculative streaming, arXiv 2402.11131, section 3.1).

Beside the main stream, which sees the text and says the next token, each position t gets `count` more:
stream j says token t + 1 + j. They begin before the top `num_layers` layers as the main stream's state plus a
learned embedding of their own, and see there the main stream up to t and streams 1 to j of position t. The
head is the main stream's.

Any decoder of transformers will do: below the top layers nothing changes, and there the streams are further
rows of the same sequence, under a mask of their own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface

from sglang_mirror.errors import MirrorError
from sglang_mirror.train.attention import causal_blocks

NAME = "streams"  # of the attention, as transformers knows it
# Under these names in config.json, beside the model's weights, and in that file.
ENTRY, FILE, WEIGHT = "mirror_streams", "mirror_streams.safetensors", "embeddings"
INITIAL_SCALE = 0.02


class Streams(nn.Module):  # type: ignore[misc]  # torch ships no types
    """Adds streams to `model`, whose forward then returns the main rows [T] and the streams' behind them.

    Args:
        model: a causal language model of transformers; its layers take a mask and position embeddings.
        count: streams, 1 or more.
        num_layers: top layers that they run through, 1 to all.

    Attributes:
        embeddings: what makes a stream of the main stream's state, [count, width].

    Raises:
        MirrorError: the model's layers cannot be found, or are fewer.
    """

    def __init__(self, model: Any, *, count: int, num_layers: int) -> None:
        super().__init__()
        body: Any = getattr(model, "model", None)
        layers = getattr(body, "layers", None)
        if layers is None or not hasattr(body, "rotary_emb"):
            raise MirrorError(
                f"{type(model).__name__}: no model.layers and model.rotary_emb; "
                "streams need a decoder of Llama's kind"
            )
        if not 1 <= num_layers <= len(layers):
            raise MirrorError(f"--layers {num_layers}: the model has {len(layers)}; give 1 to {len(layers)}")
        if count < 1:
            raise MirrorError(f"--streams {count}: give 1 or more")
        self.count, self.num_layers = count, num_layers
        self.embeddings = nn.Parameter(torch.randn(count, model.config.hidden_size) * INITIAL_SCALE)
        self._rotary = [body.rotary_emb]  # in a list: it stays the model's
        model.set_attn_implementation(NAME)
        first, *others = layers[-num_layers:]
        first.register_forward_pre_hook(self._begin, with_kwargs=True)
        for layer in others:
            layer.register_forward_pre_hook(self._go_on, with_kwargs=True)
        for layer in (first, *others):
            layer.self_attn.num_streams = count

    def _begin(self, _layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """[B, T, width] -> [B, T * (1 + count), width]: the main rows, then each stream's."""
        hidden = args[0] if args else kwargs["hidden_states"]
        rows = [hidden, *(hidden + embedding.to(hidden.dtype) for embedding in self.embeddings)]
        spread = torch.cat(rows, 1)
        return (spread, *args[1:]) if args else args, self._placed(spread, kwargs, given=bool(args))

    def _go_on(self, _layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        return args, self._placed(hidden, kwargs, given=bool(args))

    def _placed(self, spread: torch.Tensor, kwargs: dict[str, Any], *, given: bool) -> dict[str, Any]:
        """The layer's arguments for all rows: stream j of position t stands where token t + j will."""
        length = spread.shape[1] // (1 + self.count)
        places = (
            torch.arange(length, device=spread.device)
            + torch.arange(1 + self.count, device=spread.device)[:, None]
        )
        positions = places.flatten()[None]
        placed = {
            **kwargs,
            "position_ids": positions,
            "position_embeddings": self._rotary[0](spread, positions),
            "attention_mask": None,
        }
        return placed if given else {**placed, "hidden_states": spread}


def attend(  # noqa: PLR0917 (transformers passes them in this order)
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    **options: object,
) -> tuple[torch.Tensor, None]:
    """As `causal_blocks`; in a layer with streams, [B, H, T * (1 + count), D] of main rows and streams.

    A stream's row sees the text up to its position as the main row there does, and besides these the rows of
    the streams before it at that position, and itself.
    """
    count = getattr(module, "num_streams", 0)
    length = query.shape[2] // (1 + count)
    main, _ = causal_blocks(
        module,
        query[:, :, :length],
        key[:, :, :length],
        value[:, :, :length],
        attention_mask,
        scaling,
        **options,
    )
    if not count:
        return main, None
    group = query.shape[1] // key.shape[1]
    keys = key.repeat_interleave(group, 1).unflatten(2, (1 + count, length))  # [B, H, 1 + count, T, D]
    values = value.repeat_interleave(group, 1).unflatten(2, (1 + count, length))
    queries = query.unflatten(2, (1 + count, length))[:, :, 1:] * scaling
    text = queries @ keys[:, :, :1].transpose(-1, -2)  # [B, H, count, T, T]
    future = torch.ones(length, length, dtype=torch.bool, device=query.device).triu(1)
    text = text.masked_fill(future, -torch.inf)
    own = (queries[:, :, :, None] * keys[:, :, None, 1:]).sum(-1).transpose(-1, -2)  # [B, H, count, T, count]
    later = torch.ones(count, count, dtype=torch.bool, device=query.device).triu(1)
    own = own.masked_fill(later[:, None], -torch.inf)
    weights = torch.cat((text, own), -1).float().softmax(-1).to(query.dtype)
    out = weights[..., :length] @ values[:, :, :1]
    out = out + torch.einsum("bhjtk,bhktd->bhjtd", weights[..., length:], values[:, :, 1:])
    return torch.cat((main, out.flatten(2, 3).transpose(1, 2)), 1).contiguous(), None


AttentionInterface.register(NAME, attend)
