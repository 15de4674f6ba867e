"""The merged first halves of a layer's blocks against the references. Run by test_triton."""

from __future__ import annotations

import math

import pytest
import torch

from sglang_mirror_kernels import reference
from sglang_mirror_kernels.triton import project_gate, project_rotate
from tests.kernels.tree_cases import DEVICE, LAYER, Request, rows_of

HEADS = 4
ROWS: dict[int, tuple[list[Request], int]] = {  # requests, and rows that fill up
    1: ([(1, 0, 0)], 0),
    3: ([(2, 7, 3)], 1),
    16: ([(9, 4, 2), (5, 0, 0)], 2),
    64: ([(40, 6, 9), (20, 3, 1)], 4),
    70: ([(70, 0, 0)], 0),  # two programs' rows
}


def some(shape: tuple[int, ...], seed: int, dtype: torch.dtype, scale: float = 1.0) -> torch.Tensor:
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return (scale * numbers).to(DEVICE, dtype)


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    tolerance = 1e-4 if found.dtype == torch.float32 else 1e-2
    torch.testing.assert_close(found, wanted, atol=tolerance, rtol=tolerance)


def check_rotate(
    num_rows: int, dim: int, width: int, dtype: torch.dtype, *, biased: bool = True, normed: bool = True
) -> None:
    requests, padding = ROWS[num_rows]
    rows, memory = rows_of(requests, dim, padding=padding, seed=1)
    memory = memory.to(DEVICE, dtype)
    kept = memory.clone()
    num_all = HEADS + 2 * LAYER.num_kv_heads
    weight = some((num_all * dim, width), 2, dtype, 1 / math.sqrt(width))
    bias = some((num_all * dim,), 3, dtype) if biased else None
    norm = some((HEADS + LAYER.num_kv_heads, dim), 4, dtype) if normed else None
    rope, positions = some((90, 2, 1, dim), 5, dtype), torch.arange(num_rows, device=DEVICE) + 9
    given = some((num_rows, width), 6, dtype, 3.0), weight, bias, norm, rope, positions
    found = project_rotate.project_rotate(*given, memory, rows, LAYER, eps=1e-5)
    wanted = reference.project_rotate(*given, kept, rows, LAYER, eps=1e-5)
    close(found, wanted)
    close(memory, kept)


def check_gate(num_rows: int, inner: int, width: int, dtype: torch.dtype, *, biased: bool) -> None:
    states = some((num_rows, width), 1, dtype, 3.0)
    weight = some((2 * inner, width), 2, dtype, 1 / math.sqrt(width))
    bias = some((2 * inner,), 3, dtype) if biased else None
    found, wanted = (each.project_gate(states, weight, bias, eps=1e-5) for each in (project_gate, reference))
    close(found, wanted)


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dim", [64, 128])
def test_project_rotate(dim: int, dtype: torch.dtype, *, biased: bool, normed: bool) -> None:
    check_rotate(3, dim, 300, dtype, biased=biased, normed=normed)


@pytest.mark.parametrize("num_rows", list(ROWS))
@pytest.mark.parametrize(("dim", "width"), [(64, 256), (24, 131)])
def test_project_rotate_of_many_rows(num_rows: int, dim: int, width: int) -> None:
    check_rotate(num_rows, dim, width, torch.float32)


@pytest.mark.parametrize("num_rows", [64, 70])
@pytest.mark.parametrize("dim", [64, 128])
def test_project_rotate_of_many_rows_in_half_precision(num_rows: int, dim: int) -> None:
    """What a forward of many rows takes in service: whole tiles, of widths whose parts arrive ahead."""
    check_rotate(num_rows, dim, 1024, torch.bfloat16)


@pytest.mark.parametrize("num_rows", [64, 70])
@pytest.mark.parametrize("width", [256, 1024])
def test_project_gate_of_many_rows_in_half_precision(num_rows: int, width: int) -> None:
    check_gate(num_rows, 96, width, torch.bfloat16, biased=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("inner", "width"), [(20, 48), (96, 300), (33, 131)])
def test_project_gate(inner: int, width: int, dtype: torch.dtype) -> None:
    for num_rows in ROWS:
        for biased in (False, True):
            check_gate(num_rows, inner, width, dtype, biased=biased)


def test_states_that_would_overflow() -> None:
    """In half precision their products would be infinite; the norm is a factor before they are rounded."""
    states, weight = some((3, 64), 1, torch.float16, 4000.0), some((40, 64), 2, torch.float16, 4.0)
    found, wanted = (each.project_gate(states, weight, None, eps=1e-5) for each in (project_gate, reference))
    assert wanted.isfinite().all()
    close(found, wanted)
