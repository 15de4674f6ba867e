"""On a GPU sampled tokens follow the target's law too: chains and trees, drawn by SGLang's sampler there."""

from __future__ import annotations

import pytest
import torch

from sglang_mirror.bench.pair import embedded_pair
from tests.e2e.fleet import LOGS, Fleet, mirror_flags
from tests.e2e.test_law import holds
from tests.gpu.test_text import HERE, START_TIMEOUT_S, TREE, flags_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.server,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here"),
]


@pytest.mark.parametrize("window", ["chain", "tree"])
def test_law(window: str) -> None:
    """In float32, so that the logits are the exact target's."""
    fleet, trace = Fleet(embedded_pair(), label=f"gpu-law-{window}-"), LOGS / f"gpu-law-{window}.jsonl"
    trace.unlink(missing_ok=True)
    shape = TREE if window == "tree" else ()
    words = mirror_flags(fleet.pair.draft, **HERE, trace=trace)
    try:
        server = fleet.launch("mirror", (*flags_of("triton", dtype="float32"), *shape, *words))
        holds(server.wait(START_TIMEOUT_S).wait_for_draft(), fleet.pair, trace)
    finally:
        left = fleet.stop_all()
    assert not left
