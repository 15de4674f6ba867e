"""Triton's twins against the references: random shapes and odd ones. Run by test_triton."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_mirror_kernels import reference
from sglang_mirror_kernels.triton import exit_topk, promote

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# A GPU's compiler takes seconds for each combination of constants.
FEW = settings(max_examples=3 if torch.cuda.is_available() else 25, deadline=None)


def distinct(rows: int, vocab: int, seed: int, dtype: torch.dtype) -> torch.Tensor:
    """Logits without ties, so that one order is right."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.stack([torch.randperm(vocab, generator=generator) for _ in range(rows)])
    values = torch.linspace(-8.0, 8.0, vocab)
    return values[order].to(DEVICE, dtype)


@FEW
@given(
    rows=st.integers(1, 4),
    vocab=st.sampled_from([40, 4095, 4096, 4097, 9000]),
    kappa=st.integers(1, 8),
    num_children=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_exit_topk(*, rows: int, vocab: int, kappa: int, num_children: int, seed: int) -> None:
    logits = distinct(rows, vocab, seed, torch.float32)
    children = torch.randint(-1, vocab, (rows, num_children), device=DEVICE)
    children[0] = logits[0].topk(num_children).indices  # those that would have come first
    wanted, found = (each.exit_topk(logits, children, kappa) for each in (reference, exit_topk))
    assert torch.equal(found[0], wanted[0])
    torch.testing.assert_close(found[1], wanted[1], atol=1e-4, rtol=1e-4)


def test_exit_topk_of_half_precision_rows_that_lie_apart() -> None:
    wide = distinct(3, 400, 5, torch.float32).bfloat16().float()
    logits = torch.cat((wide, wide), 1)[:, :400]
    children = torch.full((3, 1), -1, device=DEVICE)
    wanted, found = (each.exit_topk(logits, children, 4) for each in (reference, exit_topk))
    torch.testing.assert_close(found[1], wanted[1], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("vocab", [40, 9000])
def test_exit_topk_to_where_it_is_wanted(vocab: int) -> None:
    """A pair of integers a candidate, as a forward brings them to its host."""
    logits, children = distinct(3, vocab, 1, torch.float32), torch.full((3, 1), -1, device=DEVICE)
    tokens, logprobs = reference.exit_topk(logits, children, 5)
    for each in (reference, exit_topk):
        found = torch.zeros(2, 3, 5, dtype=torch.int32, device=DEVICE)
        each.exit_topk(logits, children, 5, (found[0], found[1].view(torch.float32)))
        assert torch.equal(found[0], tokens.int())
        torch.testing.assert_close(found[1].view(torch.float32), logprobs, atol=1e-4, rtol=1e-4)


def test_exit_topk_with_a_block_that_is_forbidden() -> None:
    logits = distinct(1, 9000, 2, torch.float32)
    logits[:, 4096:8192] = float("-inf")
    children = torch.full((1, 1), -1, device=DEVICE)
    wanted, found = (each.exit_topk(logits, children, 8) for each in (reference, exit_topk))
    assert torch.equal(found[0], wanted[0])
    torch.testing.assert_close(found[1], wanted[1], atol=1e-4, rtol=1e-4)


def spoilt(vocab: int) -> torch.Tensor:
    """Logits of which some or all are NaN, infinite or forbidden, by row."""
    logits = distinct(6, vocab, 4, torch.float32)
    logits[0] = torch.nan
    logits[1, ::3] = torch.nan
    logits[2, 5:] = float("-inf")  # fewer chances than candidates
    logits[3] = float("-inf")
    logits[4, 7] = float("inf")
    logits[5, -1] = torch.nan  # alone in the last block
    return logits


@pytest.mark.parametrize("vocab", [40, 4097, 9000])
@pytest.mark.parametrize("children", [[-1, -1], [0, 2]])
def test_exit_topk_of_what_is_no_number(vocab: int, children: list[int]) -> None:
    """A token that is none would end the draft's process at its next embedding."""
    logits, own = spoilt(vocab), torch.tensor([children] * 6, device=DEVICE)
    both = [each.exit_topk(logits, own, 8) for each in (reference, exit_topk)]
    (wanted, expected), (tokens, logprobs) = both
    torch.testing.assert_close(logprobs, expected, atol=1e-4, rtol=1e-4)
    certain = logprobs > float("-inf")
    assert certain.sum(1).tolist() == [0, 0, 3 if 0 in children else 5, 0, 0, 0]
    assert torch.equal(tokens[certain], wanted[certain])
    for found in (wanted, tokens):
        assert ((found >= 0) & (found < vocab)).all()
        assert all(len(set(row)) == 8 and not set(row) & set(children) for row in found.tolist())


@pytest.mark.parametrize(("slots", "start"), [([], 3), ([9], 2), ([7, 4, 5, 9], 4), ([1, 3], 0)])
@pytest.mark.parametrize("dim", [5, 64])
def test_promote(slots: list[int], start: int, dim: int) -> None:
    kv = torch.randn(2, 3, 2, 12, dim, device=DEVICE)
    wanted = kv.clone()
    index = torch.tensor(slots, dtype=torch.int64, device=DEVICE)
    promote.promote(kv, index, start)
    reference.promote(wanted, index, start)
    assert torch.equal(kv, wanted)
