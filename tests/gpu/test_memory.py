"""A draft that may take so much of a GPU's memory takes no more, and goes on."""

from __future__ import annotations

import pytest
import torch

from sglang_mirror.draft.backends.device import GIB, bound_memory

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here"),
]


def test_memory_is_bounded() -> None:
    try:
        bound_memory("cuda:0", 1.0)
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(2 * GIB, dtype=torch.uint8, device="cuda:0")
        assert torch.empty(GIB // 4, dtype=torch.uint8, device="cuda:0").is_cuda
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, "cuda:0")
