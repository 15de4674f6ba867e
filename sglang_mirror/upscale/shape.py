"""Shapes of Qwen3-form models, and which fits into which."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from sglang_mirror.errors import MirrorError

# The config entry that holds the small model's shape, and so says that a folder is an enlarged one.
ENTRY = "mirror_upscale"
# The entry of a streaming draft: how many streams, and through how many of the top layers.
STREAMS = "mirror_streams"


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes, under the names that a model's config has for them.

    Raises:
        MirrorError: the query heads cannot be shared out among the key heads.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int

    def __post_init__(self) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            raise MirrorError(
                f"shape: {self.num_attention_heads} query heads cannot share "
                f"{self.num_key_value_heads} key heads"
            )

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> Self:
        """The shape of a model with this config.json."""
        return cls(**{field.name: int(config[field.name]) for field in fields(cls)})

    @property
    def group(self) -> int:
        """Query heads that share a key head."""
        return self.num_attention_heads // self.num_key_value_heads

    @property
    def num_parameters(self) -> int:
        """Of a model with separate embedding and head, norms left out."""
        width, heads = self.hidden_size, self.num_attention_heads + self.num_key_value_heads
        layer = 2 * heads * self.head_dim * width + 3 * width * self.intermediate_size
        return self.num_hidden_layers * layer + 2 * self.vocab_size * width

    def holds(self, small: Shape) -> list[str]:
        """Why `small` does not fit into it; empty if it does. More vocabulary takes one channel more."""
        spare = 1 if self.vocab_size > small.vocab_size else 0
        reasons = [
            f"{name} {getattr(self, name)}: must be at least {least}"
            for name, least in {**asdict(small), "hidden_size": small.hidden_size + spare}.items()
            if getattr(self, name) < least
        ]
        if self.head_dim != small.head_dim:
            reasons.append(f"head_dim {self.head_dim}: must be {small.head_dim}, the small model's")
        if self.group < small.group:
            reasons.append(f"{self.group} query heads a key head: must be at least {small.group}")
        return reasons


# Head size 64 everywhere, so twice the heads where the original has 128: the same products.
SHAPES = {
    "12m": Shape(256, 768, 4, 4, 2, 64, 32000),  # a draft for 0.25b, as small beside it as 0.6b is beside 14b
    "33m": Shape(256, 768, 32, 4, 2, 64, 32000),  # its head is a quarter of its weights, as that of 0.6b
    "0.25b": Shape(1024, 2816, 16, 16, 8, 64, 32000),
    "0.6b": Shape(1024, 3072, 28, 32, 16, 64, 151936),
    "1b": Shape(2048, 6144, 18, 32, 8, 64, 32000),
    "qwen3-14b": Shape(5120, 17408, 40, 80, 16, 64, 151936),
    "qwen3-32b": Shape(5120, 25600, 64, 128, 16, 64, 151936),
    "mistral-24b": Shape(5120, 32768, 40, 64, 16, 64, 131072),
    "opt-66b": Shape(9216, 24576, 64, 144, 72, 64, 50272),
}


def parse_shape(text: str) -> Shape:
    """A shape by its name, or as seven sizes in the order of `Shape`'s fields, with x between them.

    Raises:
        MirrorError: it is neither.
    """
    if text in SHAPES:
        return SHAPES[text]
    sizes = text.split("x")
    if len(sizes) != len(fields(Shape)) or not all(size.isdecimal() and int(size) for size in sizes):
        names = "x".join(field.name for field in fields(Shape))
        raise MirrorError(f"shape {text!r}: give one of {', '.join(SHAPES)}, or {names}")
    return Shape(*map(int, sizes))


def live_layers(small: Shape, large: Shape) -> list[int]:
    """Places of the small model's layers in the large one: even, so that half depth stays half depth."""
    return [
        layer * large.num_hidden_layers // small.num_hidden_layers for layer in range(small.num_hidden_layers)
    ]
