"""Slot bookkeeping against loops over single cells."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from sglang_mirror.platform import cache_locs

WIDTH = 32

Spans = list[tuple[int, int]]
spans = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 9)), min_size=1, max_size=5)


def a_table(num_requests: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A slot table of distinct numbers, and rows in an order that is not the requests' own."""
    table = torch.arange(8 * WIDTH, dtype=torch.int32).view(8, WIDTH) * 3 + 1
    return table, torch.arange(num_requests).flip(0)


@given(spans)
def test_extend_cache_locs(start_and_len: Spans) -> None:
    table, rows = a_table(len(start_and_len))
    start = torch.tensor([s for s, _ in start_and_len], dtype=torch.int32)
    end = torch.tensor([s + n for s, n in start_and_len], dtype=torch.int64)
    got = cache_locs.extend_cache_locs(
        req_pool_indices=rows,
        req_to_token=table,
        start_offset=start,
        end_offset=end,
        batch_size=len(start_and_len),
        draft_token_num=9,
        device="cpu",
    )
    want = [
        int(table[r, s + j]) for r, (s, n) in zip(rows.tolist(), start_and_len, strict=True) for j in range(n)
    ]
    assert got.dtype == torch.int64
    assert got.shape == (len(start_and_len) * 9,)
    assert got[: len(want)].tolist() == want


@given(spans)
def test_assign_req_to_token_pool(start_and_len: Spans) -> None:
    table, rows = a_table(len(start_and_len))
    want = table.clone()
    slots = torch.arange(1000, 1000 + sum(n for _, n in start_and_len))
    fresh = iter(slots.tolist())
    for row, (start, n) in zip(rows.tolist(), start_and_len, strict=True):
        for col in range(start, start + n):
            want[row, col] = next(fresh)
    starts, lens = (torch.tensor(column, dtype=torch.int32) for column in zip(*start_and_len, strict=True))
    cache_locs.assign_req_to_token_pool(rows, table, starts, starts + lens, slots, len(start_and_len))
    assert torch.equal(table, want)


@given(st.lists(st.integers(0, 10), min_size=1, max_size=4), st.integers(1, 3), st.integers(1, 4))
def test_draft_cache_locs_contiguous(lens: list[int], topk: int, num_cols: int) -> None:
    table, rows = a_table(len(lens))
    got = torch.empty(len(lens) * topk * num_cols, dtype=torch.int64)
    positions, mrope = torch.empty(len(lens) * topk, dtype=torch.int64), torch.empty(3, len(lens) * topk)
    cache_locs.draft_cache_locs_contiguous(
        rows, table, torch.tensor(lens), got, topk, num_cols, positions, mrope
    )
    want = [
        int(table[r, s + j]) for r, s in zip(rows.tolist(), lens, strict=True) for j in range(topk * num_cols)
    ]
    assert got.tolist() == want
    assert positions.tolist() == [s for s in lens for _ in range(topk)]
    assert mrope.tolist() == [positions.tolist()] * 3


@given(st.lists(st.integers(0, 5), min_size=1, max_size=4))
def test_front_out_cache_loc(num_front: list[int]) -> None:
    slots = torch.arange(5 * len(num_front)) + 100
    got = torch.full_like(slots, -7)
    cache_locs.front_out_cache_loc(torch.tensor(num_front, dtype=torch.int32), slots, got)
    want = [100 + 5 * b + j for b, n in enumerate(num_front) for j in range(n)]
    assert got.tolist() == want + [-7] * (len(slots) - len(want))


@given(st.lists(st.integers(-1, 11), min_size=1, max_size=12))
def test_accept_out_cache_loc(accepted: list[int]) -> None:
    slots = torch.arange(12) + 50
    got = torch.full((12,), -7)
    cache_locs.accept_out_cache_loc(torch.tensor(accepted, dtype=torch.int32), slots, got, len(accepted))
    want = [50 + node for node in accepted if node > -1]
    assert got.tolist() == want + [-7] * (12 - len(want))


@given(st.lists(st.integers(1, 4), min_size=1, max_size=5))
def test_bonus_tokens(accept_lens: list[int]) -> None:
    tokens = torch.arange(4 * len(accept_lens), dtype=torch.int32)
    got = torch.empty(len(accept_lens), dtype=torch.int32)
    cache_locs.bonus_tokens(tokens, torch.tensor(accept_lens, dtype=torch.int32), got, 4, len(accept_lens))
    assert got.tolist() == [4 * b + n - 1 for b, n in enumerate(accept_lens)]
