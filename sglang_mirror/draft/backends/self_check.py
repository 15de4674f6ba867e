"""Does our way to run a model give the model's own numbers? Asked once, at the start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from sglang_mirror.draft.backends.base import Cache, Said, Segment

HALF = 3
NUM_TREE_TOKENS = 2 * HALF
# On a GPU a first chunk of 24 rows, one of 120, and a tree: each takes another variant of the kernels. On a
# CPU there is one, and 150 rows of 0.6 billion parameters take seconds there.
FIRST_CHUNK = 24
TEXT_LEN_ON_CPU, TEXT_LEN_ON_GPU = 40, 150
# Of the text, besides the tree's tokens: in every part of the long chunk.
NUM_COMPARED = 4
# A text long enough to leave a sliding window, as long as that is quickly computed.
LONGEST_TEXT = 1024
NUM_CANDIDATES = 8

# Largest norm of a difference, as a share of the logits' norm. Rounding gives 1e-6 in float32 and 2e-2 in
# bfloat16; one wrong mask, norm or scale gives 0.1 and more.
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
TOLERANCE_HALF = 8e-2


class Checked(Protocol):
    """What is checked of a backend."""

    num_tokens: int

    def new_cache(self) -> Cache: ...

    def logits(self, segments: Sequence[Segment]) -> torch.Tensor: ...

    def forward(self, segments: Sequence[Segment], num_candidates: int) -> list[list[Said]]: ...


@dataclass(frozen=True, slots=True)
class Reference:
    """A text and what the model's own plain forward says after some of its tokens.

    Attributes:
        tokens: the text.
        places: of the tokens, ascending; the last NUM_TREE_TOKENS are the text's last.
        logits: after them, [places, V].
        tolerance: how far ours may be off.
    """

    tokens: list[int]
    places: list[int]
    logits: torch.Tensor
    tolerance: float


def reference(model: Any) -> Reference:
    """Run the model's own forward, before its attention is replaced, on a fixed random text."""
    config = model.config.get_text_config()
    device, dtype = next(model.parameters()).device, next(model.parameters()).dtype
    length = TEXT_LEN_ON_CPU if device.type == "cpu" else TEXT_LEN_ON_GPU
    length += getattr(config, "sliding_window", None) or 0
    length = min(length, config.max_position_embeddings, LONGEST_TEXT)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, config.vocab_size, (length,), generator=generator)
    num_text = length - NUM_TREE_TOKENS
    apart = max(num_text // NUM_COMPARED, 1)
    places = [*sorted(range(num_text - 1, 0, -apart)), *range(num_text, length)]
    with torch.inference_mode():
        logits = model(input_ids=tokens[None].to(device), use_cache=False).logits[0, places]
    return Reference(tokens.tolist(), places, logits.float(), TOLERANCE.get(dtype, TOLERANCE_HALF))


def deviation(backend: Checked, expected: Reference) -> float:
    """How far the backend's logits are from the model's, as a share of their norm.

    The text is computed in two chunks, but for its last tokens: these are the nodes of a tree in which each
    has a sibling with another token, so that a mask that shows too much is seen. Half of them are computed,
    committed, and then the other half, so that KV that was moved is read.

    Raises:
        ValueError: what the backend proposes is not what its logits say.
    """
    cache, tokens, found = backend.new_cache(), expected.tokens, []
    num_text = len(tokens) - NUM_TREE_TOKENS
    middle = min(FIRST_CHUNK, num_text // 2)
    for first, last in ((0, middle), (middle, num_text)):
        chunk = range(first, last)
        seen = [(2 << row) - 1 for row in range(len(chunk))]
        wanted = [place - first for place in expected.places if place in chunk]
        found.append(backend.logits([Segment(cache, tokens[first:last], chunk, first, first, seen, wanted)]))
    for first in (num_text, num_text + HALF):
        tree = _tree(cache, tokens, first)
        found.append(backend.logits([tree]))
        _compare_candidates(backend, tree, found[-1], expected.tolerance)
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


def _compare_candidates(backend: Checked, segment: Segment, logits: torch.Tensor, tolerance: float) -> None:
    """A forward of the same rows proposes the tokens that are most probable by their logits [w, V].

    Equal logits may be in either order, so what is compared are log-probabilities: those of the tokens that
    are proposed, and those that they are said to have. On the host, where an id that is none is an error.
    """
    (said,) = backend.forward([segment], NUM_CANDIDATES)
    with torch.inference_mode():
        logprobs = torch.log_softmax(logits[:, : backend.num_tokens].float(), -1).cpu()
        tokens = torch.tensor([each.next.tokens for each in said])
        best = torch.topk(logprobs, tokens.shape[1]).values
        claimed = torch.tensor([each.next.logprobs for each in said])
        for found in (logprobs.gather(1, tokens), claimed):
            off = ((found - best).norm(dim=-1) / best.norm(dim=-1)).max().item()
            if not off <= tolerance:
                raise ValueError(f"the tokens that it proposes are off by {off:.3f} of their logarithms")
