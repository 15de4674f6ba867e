"""The early exit's candidates against a loop that anyone can read."""

from __future__ import annotations

import math

import pytest
import torch

from sglang_mirror_kernels.reference import exit_topk


def naive(logits: list[float], children: list[int], kappa: int) -> list[tuple[int, float]]:
    total = math.log(sum(math.exp(value) for value in logits))
    options = [(value - total, token) for token, value in enumerate(logits) if token not in children]
    return [(token, logprob) for logprob, token in sorted(options, key=lambda each: -each[0])[:kappa]]


@pytest.mark.parametrize("num_children", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_against_a_loop(num_children: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.stack([torch.randperm(40, generator=generator) for _ in range(9)]).to(dtype) / 4
    children = torch.randint(-1, 40, (9, num_children), generator=generator)
    children[0] = logits[0].float().topk(num_children).indices  # those that would have come first
    children[1] = -1
    tokens, logprobs = exit_topk(logits, children, 5)
    assert tokens.shape == logprobs.shape == (9, 5)
    assert logprobs.dtype == torch.float32
    for row in range(9):
        wanted = naive(logits[row].tolist(), children[row].tolist(), 5)
        assert tokens[row].tolist() == [token for token, _ in wanted]
        assert logprobs[row].tolist() == pytest.approx([logprob for _, logprob in wanted], abs=1e-4)


def test_the_argument_is_left_alone() -> None:
    logits = torch.arange(6.0)[None]
    exit_topk(logits, torch.tensor([[5]]), 2)
    assert logits.tolist() == [[0, 1, 2, 3, 4, 5]]
