"""Which models the torch backend serves, and that it refuses the others rather than compute nonsense."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sglang_mirror.draft.backends import kv_cache, load, load_backend
from sglang_mirror.draft.backends.attention import TreeAttention
from sglang_mirror.draft.backends.generic import GenericModel
from sglang_mirror.draft.backends.llama_loop import LlamaLoop
from sglang_mirror.draft.backends.load import load_torch
from sglang_mirror.draft.backends.torch_backend import TorchBackend
from sglang_mirror.errors import DraftError, SettingsError
from tests.draft.tiny import ARCHITECTURES, VOCAB, make

OWN_LOOP = {"llama", "qwen2", "qwen3", "mistral"}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_serves(architecture: str, tmp_path: Path) -> None:
    backend = load_torch(str(make(architecture, tmp_path)), device="cpu", dtype="auto", threads=1)
    assert isinstance(backend._runner, LlamaLoop if architecture in OWN_LOOP else GenericModel)


@pytest.mark.parametrize("architecture", sorted(OWN_LOOP))
def test_general_path_serves_them_too(
    architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "suits", lambda _: False)
    backend = load_torch(str(make(architecture, tmp_path)), device="cpu", dtype="auto", threads=1)
    assert isinstance(backend._runner, GenericModel)


def test_bfloat16(tmp_path: Path) -> None:
    backend = load_torch(str(make("qwen3", tmp_path)), device="cpu", dtype="bfloat16", threads=1)
    assert backend.new_cache().kv.dtype == torch.bfloat16


def test_ids_beyond_the_tokenizer_are_never_proposed(tmp_path: Path) -> None:
    folder = make("llama", tmp_path, vocab_size=VOCAB + 30)
    backend = load_torch(str(folder), device="cpu", dtype="auto", threads=1)
    assert backend.vocab_size == VOCAB + 30
    assert backend.num_tokens == VOCAB


@pytest.mark.parametrize("architecture", ["mamba", "bloom"])
def test_refuses_what_does_not_attend_as_we_do(architecture: str, tmp_path: Path) -> None:
    make(architecture, tmp_path, n_head=4, n_layer=2)
    with pytest.raises(SettingsError, match=r"cannot be a draft.*Choose a decoder"):
        load_torch(str(tmp_path), device="cpu", dtype="auto", threads=1)


def test_a_wrong_mask_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = TreeAttention.__init__

    def shows_all(self: TreeAttention, *args: object, **options: object) -> None:
        original(self, *args, **options)  # type: ignore[arg-type]
        for part in self._parts:
            if part.mask is not None:
                part.mask.zero_()

    monkeypatch.setattr(TreeAttention, "__init__", shows_all)
    with pytest.raises(SettingsError, match="logits off by"):
        load_torch(str(make("llama", tmp_path)), device="cpu", dtype="auto", threads=1)


def test_kv_that_is_moved_elsewhere_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The start commits too, which on a GPU also compiles what the first commit would have waited for."""
    original, moved = kv_cache.promote, list[int]()

    def slips(kv: torch.Tensor, slots: torch.Tensor, start: int) -> None:
        moved.append(slots.numel())
        original(kv, slots - 1, start)

    monkeypatch.setattr(kv_cache, "promote", slips)
    with pytest.raises(SettingsError, match="LlamaLoop: logits off by"):
        load_torch(str(make("llama", tmp_path)), device="cpu", dtype="auto", threads=1)
    assert moved


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"--backend abacus: unknown; choose one of"):
        load_backend("abacus", model="m", device="cpu", dtype="auto", threads=1)
    with pytest.raises(DraftError, match="cannot be loaded"):
        load_torch(str(tmp_path / "nowhere"), device="cpu", dtype="auto", threads=1)
    with pytest.raises(SettingsError, match="--device abacus"):
        load_torch("m", device="abacus", dtype="auto", threads=1)
    with pytest.raises(SettingsError, match="--dtype float99"):
        load_torch(str(make("llama", tmp_path)), device="cpu", dtype="float99", threads=1)
    with pytest.raises(SettingsError, match="--device cuda:99"):
        load_torch(str(make("llama", tmp_path)), device="cuda:99", dtype="auto", threads=1)


def test_what_another_start_may_do_better(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that are being written, memory that is taken: not the settings' fault."""
    folder = make("llama", tmp_path)
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    for content in (b"", whole[: len(whole) // 2], None):
        weights.unlink() if content is None else weights.write_bytes(content)
        with pytest.raises(DraftError, match="cannot be loaded"):
            load_torch(str(folder), device="cpu", dtype="auto", threads=1)
    weights.write_bytes(whole)

    def full(*_args: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(load, "deviation", full)
    with pytest.raises(DraftError, match=r"cannot be served: .*CUDA out of memory"):
        load_torch(str(folder), device="cpu", dtype="auto", threads=1)


def no_graphs(why: Exception) -> object:
    """Ways to run a model of which the first is CUDA graphs that fail, as on a GPU."""
    original = load._ways

    def fail() -> TorchBackend:
        raise why

    return lambda *args, **options: {"CUDA graphs": fail, **original(*args, **options)}


def spoiled_capture() -> Exception:
    """Memory was short within a capture, whose end then fails as well."""
    error = RuntimeError("CUDA error: operation failed due to a previous error during capture")
    error.__context__ = torch.OutOfMemoryError("CUDA out of memory")
    return error


@pytest.mark.parametrize(
    "why",
    [
        spoiled_capture(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
    ],
)
def test_memory_that_is_taken_makes_no_draft_slow_for_good(
    why: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another start, when the target has all its own, gets graphs."""
    monkeypatch.setattr(load, "_ways", no_graphs(why))
    with pytest.raises(DraftError, match=r"cannot be served: CUDA graphs: .*torch-eager needs less"):
        load_torch(str(make("llama", tmp_path)), device="cpu", dtype="auto", threads=1)


@pytest.mark.parametrize(
    "why", ["a kernel does not compile", "CUDA error: operation not permitted when stream is capturing"]
)
def test_what_cannot_be_captured_is_computed_eagerly(
    why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(load, "_ways", no_graphs(RuntimeError(why)))
    backend = load_torch(str(make("llama", tmp_path)), device="cpu", dtype="auto", threads=1)
    assert isinstance(backend._runner, LlamaLoop)
    [said] = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert said.endswith(f"does not run in what would be faster: CUDA graphs: RuntimeError: {why}")
