"""The static draft's kernels against the references: many requests in one launch. Run by test_triton."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_mirror_kernels import reference
from sglang_mirror_kernels.rows import BLOCK_ROWS, Layer, TreeRows
from sglang_mirror_kernels.triton import gate, rotate, tree_attention

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# A GPU's compiler takes seconds for each combination of constants.
FEW = settings(max_examples=3 if torch.cuda.is_available() else 20, deadline=None)
WORDS = 3
LAYER = Layer(1, 2, 2)

Request = tuple[int, int, int]  # rows, prefix, tree slots that were there before them


def rows_of(requests: list[Request], dim: int, *, padding: int, seed: int) -> tuple[TreeRows, torch.Tensor]:
    """Random trees of several requests, and a memory that holds their KV."""
    generator = torch.Generator().manual_seed(seed)
    columns: dict[str, list[int]] = {field.name: [] for field in fields(TreeRows)}
    seen: list[list[int]] = []
    base = 32
    for count, prefix, before in requests:
        capacity = prefix + before + count + 5
        first = len(seen)
        for start in range(0, count, BLOCK_ROWS):
            columns["block_first"].append(first + start)
            columns["block_len"].append(min(BLOCK_ROWS, count - start))
        for row in range(count):
            own = before + row
            bits = torch.rand(own, generator=generator) < 0.5
            word = sum(1 << place for place, bit in enumerate(bits.tolist()) if bit) | 1 << own
            seen.append([signed(word >> 64 * index & (1 << 64) - 1) for index in range(WORDS)])
            for name, value in (
                ("base", base),
                ("capacity", capacity),
                ("slot", prefix + own),
                ("prefix", prefix),
                ("num_slots", prefix + own + 1),
            ):
                columns[name].append(value)
        base += -(-2 * LAYER.num_layers * LAYER.num_kv_heads * capacity * dim // 16) * 16
    columns["num_blocks"].append(len(columns["block_first"]))
    seen += [[0] * WORDS] * padding
    for values in columns.values():
        values.extend([0] * max(len(seen) - len(values), 0))
    columns["seen"] = torch.tensor(seen).T.tolist()
    memory = torch.randn(base, generator=generator)
    return TreeRows(**{name: torch.tensor(each, device=DEVICE) for name, each in columns.items()}), memory


def signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


def check(
    requests: list[Request],
    *,
    heads: int,
    dim: int,
    padding: int = 0,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    merged: bool = False,
) -> None:
    """In two launches; or in one, and once more with what that one left."""
    rows, memory = rows_of(requests, dim, padding=padding, seed=seed)
    memory = memory.to(DEVICE, dtype)
    num_rows = len(rows.base)
    query = torch.randn(num_rows, heads, dim, generator=torch.Generator().manual_seed(seed)).to(memory)
    scale, tolerance = dim**-0.5, 1e-4 if dtype == torch.float32 else 2e-2
    wanted = reference.tree_attention(query, memory, rows, LAYER, scale=scale)
    arrived = torch.zeros(num_rows * LAYER.num_kv_heads + 1, dtype=torch.int32, device=DEVICE)
    for own in (arrived, arrived) if merged else (None,):
        found = tree_attention.tree_attention(query, memory, rows, LAYER, scale=scale, arrived=own)
        torch.testing.assert_close(found, wanted, atol=tolerance, rtol=tolerance)
        assert not found[num_rows - padding :].any()
        assert not arrived.any()


@FEW
@given(
    requests=st.lists(
        st.tuples(st.integers(1, 20), st.integers(0, 150), st.integers(0, 160)), min_size=1, max_size=3
    ),
    group=st.sampled_from([1, 2, 3, 4]),
    dim=st.sampled_from([8, 24, 64]),
    padding=st.integers(0, 3),
    seed=st.integers(0, 99),
    merged=st.booleans(),
)
def test_tree_attention(
    *, requests: list[Request], group: int, dim: int, padding: int, seed: int, merged: bool
) -> None:
    check(requests, heads=group * LAYER.num_kv_heads, dim=dim, padding=padding, seed=seed, merged=merged)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "requests",
    [
        [(1, 0, 0)],  # a text's first token
        [(1, 700, 0)],  # a long text, one row
        [(64 * WORDS, 0, 0)],  # every bit of the words
        [(17, 64, 63), (1, 5, 0), (16, 128, 128)],  # edges of blocks and words
    ],
)
def test_tree_attention_of_odd_shapes(requests: list[Request], dtype: torch.dtype) -> None:
    check(requests, heads=8, dim=16, padding=1, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("requests", "group", "dim"),
    [
        ([(1, 0, 0)], 1, 64),  # one part of eight sees anything
        ([(3, 70, 0)], 2, 128),
        ([(16, 600, 20)], 3, 40),  # every part does, and the channels are summed in two turns
        ([(1, 9, 130)] * 9, 2, 8),  # more blocks than programs; parts of which a row sees nothing
        ([(33, 64, 63), (31, 5, 0)], 1, 24),
    ],
)
def test_tree_attention_in_one_launch(
    requests: list[Request], group: int, dim: int, dtype: torch.dtype
) -> None:
    check(requests, heads=group * LAYER.num_kv_heads, dim=dim, padding=2, dtype=dtype, merged=True)


@pytest.mark.parametrize("merged", [False, True])
def test_only_rows_that_fill_up(*, merged: bool) -> None:
    check([], heads=2, dim=8, padding=2, merged=merged)


def some_states(width: int, num_rows: int, dtype: torch.dtype) -> torch.Tensor | None:
    """States whose projections are not normed yet, for a width; None for 0."""
    states = torch.randn(num_rows, width, generator=torch.Generator().manual_seed(4))
    return (3 * states).to(DEVICE, dtype) if width else None


@pytest.mark.parametrize("width", [0, 48, 2100])
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dim", [8, 24, 64])
def test_rotate(dim: int, dtype: torch.dtype, width: int, *, normed: bool) -> None:
    rows, memory = rows_of([(3, 4, 2), (1, 0, 0)], dim, padding=2, seed=1)
    memory = memory.to(DEVICE, dtype)
    kept = memory.clone()
    generator = torch.Generator().manual_seed(2)
    heads = 4
    num_all = heads + 2 * LAYER.num_kv_heads
    qkv = torch.randn(len(rows.base), num_all, dim, generator=generator).to(memory)
    norm = torch.randn(heads + LAYER.num_kv_heads, dim, generator=generator).to(memory) if normed else None
    rope = torch.randn(9, 2, 1, dim, generator=generator).to(memory)
    positions = torch.tensor([4, 5, 5, 8, 0, 0], device=DEVICE)
    states = some_states(width, len(qkv), dtype)
    found = rotate.rotate(qkv, norm, rope, positions, memory, rows, LAYER, eps=1e-5, states=states)
    wanted = reference.rotate(qkv, norm, rope, positions, kept, rows, LAYER, eps=1e-5, states=states)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(found, wanted, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(memory, kept, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [5, 1024, 1500])
@pytest.mark.parametrize("states_width", [0, 48, 2100])
def test_gate(width: int, states_width: int, dtype: torch.dtype) -> None:
    both = torch.randn(3, 2 * width, generator=torch.Generator().manual_seed(3)).to(DEVICE, dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    states = some_states(states_width, 3, dtype)
    found, wanted = (each.gate(both, eps=1e-5, states=states) for each in (gate, reference))
    torch.testing.assert_close(found, wanted, atol=tolerance, rtol=tolerance)
