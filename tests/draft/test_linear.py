"""Matrix products by whichever library, and the KV cache's growth: exact whatever the number of rows."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sglang_mirror.draft.backends import linear
from sglang_mirror.draft.backends.kv_cache import BLOCK, KVShape, TensorCache


@pytest.mark.parametrize("packed_only", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 3, 64])
def test_linear(rows: int, bias: bool, packed_only: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if packed_only:
        monkeypatch.setattr(linear, "PACKED_ONLY_BYTES", 0)
    torch.manual_seed(0)
    weight, offset = torch.randn(96, 160), torch.randn(96) if bias else None
    inputs, residual = torch.randn(rows, 160), torch.randn(rows, 96)
    layer = linear.Linear(weight, offset)
    expected = F.linear(inputs, weight, offset)
    assert torch.allclose(layer(inputs), expected, atol=1e-4)
    assert torch.allclose(layer.added_to(residual, inputs), residual + expected, atol=1e-4)


def test_without_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "_pack", lambda _: None)
    weight, inputs = torch.randn(2000, 400), torch.randn(9, 400)
    assert torch.allclose(linear.Linear(weight)(inputs), F.linear(inputs, weight), atol=1e-3)


def test_the_cache_grows_and_moves() -> None:
    cache = TensorCache(KVShape(2, 3, 4, torch.float32, torch.device("cpu")))
    length = BLOCK - 2
    cache.reserve(0, range(length))
    cache.kv[:, :, :, :length] = torch.arange(length)[:, None].float()
    cache.reserve(length, [length] * 5)
    assert cache.kv.shape == (2, 2, 3, 2 * BLOCK, 4)
    assert cache.keys[1].data_ptr() == cache.kv[0, 1].data_ptr()
    assert cache.kv[1, 1, 2, length - 1, 3] == length - 1
    cache.kv[:, :, :, length : length + 5] = 1000.0 + torch.arange(5)[:, None]
    cache.move([length + 3, length + 1], length)
    assert cache.kv[0, 0, 0, length : length + 2, 0].tolist() == [1003.0, 1001.0]
    assert len(cache.positions) == length + 2


@pytest.mark.parametrize(("asked", "slots"), [(0, BLOCK), (BLOCK, BLOCK), (5 * BLOCK + 1, 6 * BLOCK)])
def test_the_cache_begins_with_the_prompts_length_and_grows_by_a_quarter(asked: int, slots: int) -> None:
    cache = TensorCache(KVShape(1, 1, 4, torch.float32, torch.device("cpu")), asked)
    assert cache.kv.shape[3] == slots
    cache.reserve(0, range(16 * BLOCK))
    cache.reserve(16 * BLOCK, [1])
    assert cache.kv.shape[3] == 20 * BLOCK
    assert len(cache.positions) == 16 * BLOCK + 1
