"""Does our way to run a model give the model's own numbers? Asked once, at the start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from sglang_mirror.draft.backends.base import Cache, Segment

HALF = 3
NUM_TREE_TOKENS = 2 * HALF
TEXT_LEN = 40
# A text long enough to leave a sliding window, as long as that is quickly computed.
LONGEST_TEXT = 1024

# Largest norm of a difference, as a share of the logits' norm. Rounding gives 1e-6 in float32 and 2e-2 in
# bfloat16; one wrong mask, norm or scale gives 0.1 and more.
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
TOLERANCE_HALF = 8e-2


class Checked(Protocol):
    """What is checked of a backend."""

    def new_cache(self) -> Cache: ...

    def logits(self, segments: Sequence[Segment]) -> torch.Tensor: ...


@dataclass(frozen=True, slots=True)
class Reference:
    """A text and what the model's own plain forward says of its last tokens.

    Attributes:
        tokens: the text.
        logits: [NUM_TREE_TOKENS, V], of its last tokens.
        tolerance: how far ours may be off.
    """

    tokens: list[int]
    logits: torch.Tensor
    tolerance: float


def reference(model: Any) -> Reference:
    """Run the model's own forward, before its attention is replaced, on a fixed random text."""
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None) or 0
    length = min(config.max_position_embeddings, LONGEST_TEXT, TEXT_LEN + window)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, config.vocab_size, (length,), generator=generator)
    device, dtype = next(model.parameters()).device, next(model.parameters()).dtype
    with torch.inference_mode():
        logits = model(input_ids=tokens[None].to(device), use_cache=False).logits[0, -NUM_TREE_TOKENS:]
    return Reference(tokens.tolist(), logits.float(), TOLERANCE.get(dtype, TOLERANCE_HALF))


def deviation(backend: Checked, expected: Reference) -> float:
    """How far the backend's logits are from the model's, as a share of their norm.

    The text is computed in two chunks, but for its last tokens: these are the nodes of a tree in which each
    has a sibling with another token, so that a mask that shows too much is seen. Half of them are computed,
    committed, and then the other half, so that KV that was moved is read; besides, what moves it is compiled.
    """
    cache = backend.new_cache()
    tokens = expected.tokens
    num_text = len(tokens) - NUM_TREE_TOKENS
    for first, last in ((0, num_text // 2), (num_text // 2, num_text)):
        chunk = range(first, last)
        seen = [(2 << row) - 1 for row in range(len(chunk))]
        backend.logits([Segment(cache, tokens[first:last], chunk, first, first, seen, ())])
    found = []
    for first in range(num_text, len(tokens), HALF):
        found.append(backend.logits([_tree(cache, tokens, first)]))
        cache.move([first + 2 * depth + 1 for depth in range(HALF)], first)
    with torch.inference_mode():
        difference = (torch.cat(found).float() - expected.logits).norm(dim=-1) / expected.logits.norm(dim=-1)
        worst = difference.max().item()
    return worst if worst == worst else float("inf")  # noqa: PLR0124 - NaN


def _tree(cache: Cache, tokens: Sequence[int], first: int) -> Segment:
    """`HALF` tokens of a text from `first` on as a tree behind it: every other row, behind a sibling each."""
    tree_tokens, positions, seen, above = list[int](), list[int](), list[int](), 0
    for depth in range(HALF):
        tree_tokens += [tokens[first + depth - 1], tokens[first + depth]]
        positions += [first + depth] * 2
        seen += [above | 1 << 2 * depth, above | 2 << 2 * depth]
        above |= 2 << 2 * depth
    return Segment(cache, tree_tokens, positions, first, first, seen, range(1, 2 * HALF, 2))
