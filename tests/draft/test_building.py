"""A host on which Triton cannot build: the draft falls back, says so once, and its commits move KV."""

from __future__ import annotations

import subprocess
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch

from sglang_mirror.draft.backends.buckets import Bucket, Buckets
from sglang_mirror.draft.backends.load import load_torch
from sglang_mirror_kernels import select
from sglang_mirror_kernels.building import BuildError, building
from tests.draft.tiny import make

pytest.importorskip("triton")

from triton.runtime.errors import OutOfResources

from sglang_mirror_kernels.triton import promote

NO_HEADER = subprocess.CalledProcessError(1, ["gcc", "main.c"])


@pytest.mark.parametrize(
    "why",
    [
        NO_HEADER,
        FileNotFoundError("gcc"),
        ImportError("cuda_utils.so: undefined symbol"),
        OutOfResources(300_000, 232_448, "shared memory"),
        RuntimeError("Failed to find C compiler. Please specify via CC environment variable"),
    ],
)
def test_what_cannot_be_built_has_one_name(why: Exception) -> None:
    with pytest.raises(BuildError, match="a kernel cannot be built"), building():
        raise why


@pytest.mark.parametrize(
    "why", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("Triton Error [CUDA]: out of memory")]
)
def test_what_fails_for_another_reason_keeps_its_name(why: Exception) -> None:
    with pytest.raises(type(why)) as found, building():
        raise why
    assert found.value is why


def test_graphs_that_cannot_be_built_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of the compiler's error, after which nobody would try another way."""
    buckets = Buckets(lambda _bucket: None, (1, 2), num_candidates=2, device=torch.device("cpu"))
    for name in ("graph_pool_handle", "Stream", "current_stream", "stream"):
        monkeypatch.setattr(torch.cuda, name, MagicMock())

    def compute(_bucket: Bucket) -> None:
        raise NO_HEADER

    buckets._compute = compute
    with pytest.raises(BuildError, match="gcc"):
        buckets._capture(buckets.buckets)


def test_without_a_compiler_commits_still_move_kv(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried = []

    def unbuilt(*_args: object) -> None:
        tried.append(1)
        raise NO_HEADER

    monkeypatch.setattr(select, "_twin", lambda _tensor: True)  # as on a GPU
    monkeypatch.setattr(select, "_unbuilt", set())
    monkeypatch.setattr(promote, "promote", unbuilt)
    backend = load_torch(str(make("llama", tmp_path)), device="cpu", dtype="auto", threads=1)
    cache = backend.new_cache()
    cache.reserve(0, range(9))
    wanted = cache.kv.normal_().clone()
    cache.move([4, 8], 2)
    assert torch.equal(cache.kv[:, :, :, 2:4], wanted[:, :, :, [4, 8]])
    assert tried == [1]
    [said] = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert said.startswith("PyTorch moves KV on cpu, with more launches a commit: a kernel cannot be built: ")
