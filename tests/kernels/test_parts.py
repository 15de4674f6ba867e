"""A split vocabulary's candidates are those of the whole one."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_mirror_kernels.parts import merge_parts, part_topk
from sglang_mirror_kernels.reference import exit_topk


@dataclass(frozen=True)
class Case:
    """A split of `sum(sizes)` ids; children and kappa leave enough of them."""

    sizes: list[int]
    rows: int
    num_children: int
    kappa: int
    seed: int


@st.composite
def cases(draw: st.DrawFn) -> Case:
    sizes = draw(st.lists(st.integers(0, 30), min_size=1, max_size=5).filter(lambda sizes: sum(sizes) >= 3))
    num_children = draw(st.integers(1, min(4, sum(sizes) - 2)))
    kappa = draw(st.integers(1, min(12, sum(sizes) - num_children)))
    return Case(sizes, draw(st.integers(1, 5)), num_children, kappa, draw(st.integers(0, 2**30)))


def split_topk(
    logits: torch.Tensor, sizes: list[int], children: torch.Tensor, kappa: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """By parts, each seeing its own logits alone."""
    said, start = [], 0
    for size in sizes:
        said.append(part_topk(logits[:, start : start + size], children, kappa, start))
        start += size
    return merge_parts(*(torch.stack(each) for each in zip(*said, strict=True)))


@settings(deadline=None, max_examples=300)
@given(cases())
def test_it_is_the_whole_heads(case: Case) -> None:
    generator = torch.Generator().manual_seed(case.seed)
    size = sum(case.sizes)
    # No two alike, so that there is one right order.
    logits = torch.stack([torch.randperm(size, generator=generator) / 3 for _ in range(case.rows)])
    children = torch.randint(-1, size, (case.rows, case.num_children), generator=generator)
    tokens, logprobs = split_topk(logits, case.sizes, children, case.kappa)
    wanted_tokens, wanted = exit_topk(logits, children, case.kappa)
    assert torch.equal(tokens, wanted_tokens)
    torch.testing.assert_close(logprobs, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_vocabulary_of_usual_size(dtype: torch.dtype) -> None:
    """Not divisible by the parts; equal logits may change places, their probabilities may not."""
    generator = torch.Generator().manual_seed(5)
    logits = (torch.randn(9, 32_003, generator=generator) * 4).to(dtype)
    children = logits.float().topk(3).indices  # those that would have come first
    tokens, logprobs = split_topk(logits, [8064, 8064, 8064, 7811], children, 8)
    _, wanted = exit_topk(logits, children, 8)
    torch.testing.assert_close(logprobs, wanted, atol=1e-4, rtol=1e-5)
    whole = torch.log_softmax(logits, -1, dtype=torch.float32)
    torch.testing.assert_close(whole.gather(1, tokens), wanted, atol=1e-4, rtol=1e-5)
    assert not (tokens.unsqueeze(2) == children.unsqueeze(1)).any()


def test_children_of_another_part_take_nothing_away() -> None:
    """Their ids counted from this part's start are none of its ids."""
    logits = torch.arange(8.0)[None]
    tokens, values, total = part_topk(logits, torch.tensor([[3, -1, 25]]), 2, 10)
    assert tokens.tolist() == [[17, 16]]
    assert values.tolist() == [[7.0, 6.0]]
    torch.testing.assert_close(total, torch.logsumexp(logits, -1, keepdim=True))


def test_a_part_that_is_all_children_keeps_its_share() -> None:
    logits = torch.tensor([[5.0, 4.0, 1.0, 0.0]])
    tokens, logprobs = split_topk(logits, [2, 2], torch.tensor([[0, 1]]), 1)
    assert tokens.tolist() == [[2]]
    torch.testing.assert_close(logprobs, torch.log_softmax(logits, -1)[:, 2:3])


def test_a_part_without_ids_says_nothing() -> None:
    _, values, total = part_topk(torch.empty(3, 0), torch.full((3, 1), -1), 4, 100)
    assert values.shape == (3, 4)
    assert values.isneginf().all()
    assert total.isneginf().all()
