"""The blocked attention is the ordinary one."""

from __future__ import annotations

import pytest
import torch

from sglang_mirror.train import attention
from sglang_mirror.train.shapes import build, draft_config


@pytest.mark.parametrize("length", [16, 256, 300, 600])
def test_blocks_give_the_logits_of_fused_attention(length: int) -> None:
    model = build(draft_config())
    ids = torch.randint(0, 4096, (2, length), generator=torch.Generator().manual_seed(length))
    expected = model(input_ids=ids).logits
    model.set_attn_implementation(attention.NAME)
    torch.testing.assert_close(model(input_ids=ids).logits, expected, atol=1e-4, rtol=1e-4)
