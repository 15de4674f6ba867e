"""What the check at a draft's start looks at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sglang_mirror.draft.backends import graphed, self_check, torch_backend
from sglang_mirror.draft.backends.buckets import Bucket
from sglang_mirror.draft.backends.graphed import BUCKETS, GraphedBackend
from sglang_mirror.draft.backends.load import load_torch
from sglang_mirror.draft.backends.torch_backend import TorchBackend
from sglang_mirror.errors import SettingsError
from tests.draft.test_graphed import Pair
from tests.draft.tiny import make


def test_on_a_gpu_every_variant_of_the_kernels_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Programs of 16, 32 and 64 rows: service takes the last for most of its forwards."""
    products = pytest.importorskip("sglang_mirror_kernels.triton.products")
    monkeypatch.setattr(self_check, "TEXT_LEN_ON_CPU", self_check.TEXT_LEN_ON_GPU)
    computed, compute = list[int](), GraphedBackend._compute

    def noted(self: GraphedBackend, bucket: Bucket) -> None:
        computed.append(bucket.num_rows)
        compute(self, bucket)

    monkeypatch.setattr(GraphedBackend, "_compute", noted)
    Pair(make("llama", tmp_path, num_hidden_layers=1), monkeypatch, fused=True, buckets=BUCKETS)
    tiles = {num_rows: products.tile(torch.empty(num_rows, 64), 64)["ROWS"] for num_rows in computed}
    assert tiles == {24: 32, 128: 64, 8: 16}


def shifted(found: Any) -> Any:
    found[0].sub_(1).clamp_(min=0)
    return found


def test_candidates_of_the_graphs_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits that are right are not enough: what chooses from them is in the graph as well."""
    original = graphed.exit_topk
    monkeypatch.setattr(graphed, "exit_topk", lambda *args: shifted(original(*args)))
    with pytest.raises(ValueError, match="the tokens that it proposes are off by"):
        Pair(make("llama", tmp_path, num_hidden_layers=1), monkeypatch)


@pytest.mark.parametrize("spoilt", [lambda logprobs: logprobs + 1, lambda logprobs: logprobs * torch.nan])
def test_log_probabilities_are_compared(spoilt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = torch_backend._most_probable
    monkeypatch.setattr(
        torch_backend, "_most_probable", lambda logprobs, count: original(spoilt(logprobs), count)
    )
    with pytest.raises(SettingsError, match="LlamaLoop: ValueError: the tokens that it proposes"):
        load_torch(str(make("llama", tmp_path)), device="cpu", dtype="auto", threads=1)


def test_rows_in_the_middle_of_a_chunk_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a model with one layer, whose last rows read what these left before they went wrong."""
    monkeypatch.setattr(self_check, "TEXT_LEN_ON_CPU", self_check.TEXT_LEN_ON_GPU)
    original = TorchBackend.logits

    def slips(self: TorchBackend, segments: Any, streamed: Any = ()) -> torch.Tensor:
        logits = original(self, segments, streamed)
        if len(segments[0].tokens) > 64:
            logits = torch.cat((1.5 * logits[:1], logits[1:]))  # of the first program's rows
        return logits

    monkeypatch.setattr(TorchBackend, "logits", slips)
    with pytest.raises(SettingsError, match="LlamaLoop: logits off by"):
        load_torch(str(make("llama", tmp_path)), device="cpu", dtype="auto", threads=1)
