"""From a model's folder to a backend that has been checked."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from sglang_mirror.draft.backends.device import device_problem
from sglang_mirror.draft.backends.generic import GenericModel
from sglang_mirror.draft.backends.graphed import GraphedBackend
from sglang_mirror.draft.backends.llama_loop import LlamaLoop, StreamWeights, suits
from sglang_mirror.draft.backends.self_check import Reference, deviation, reference
from sglang_mirror.draft.backends.streams import read_streams
from sglang_mirror.draft.backends.torch_backend import TorchBackend, TreeModel
from sglang_mirror.errors import DraftError, MirrorError, SettingsError
from sglang_mirror.protocol.vocabulary import vocabulary_size
from sglang_mirror.upscale.folder import is_enlarged, load_enlarged
from sglang_mirror_kernels.select import build_promote, has_triton

logger = logging.getLogger(__name__)

FUSED, EAGER = "torch-fused", "torch-eager"
# What a model that is not made for our attention may fail with.
_MISFITS = (RuntimeError, ValueError, TypeError, KeyError, AttributeError, IndexError, NotImplementedError)


def load_torch(
    model: str, *, device: str, dtype: str, threads: int, kind: str = "torch", num_tokens: int = 0
) -> TorchBackend:
    """Load a model and check that it computes trees as its own forward computes text.

    Args:
        model: a model folder or hub name.
        device: as PyTorch names it.
        dtype: float32, bfloat16, float16; or auto: float32 on a CPU, elsewhere the checkpoint's.
        threads: CPU threads; 0 leaves PyTorch's default.
        kind: torch: on a GPU, compute in CUDA graphs what can be; torch-fused: in graphs with merged kernels,
            or not at all; torch-eager: everything eagerly.
        num_tokens: ids that may be proposed are below it; 0: the tokenizer's.

    Raises:
        SettingsError: the model cannot be a draft, or the device does not exist.
        DraftError: it cannot be loaded now.
    """
    if problem := device_problem(device):
        raise SettingsError([f"--device {device}: {problem}"])
    if threads:
        torch.set_num_threads(threads)
    loaded = _load(model, device, "float32" if dtype == "auto" and device == "cpu" else dtype)
    if kind == FUSED and (problems := _not_fused(loaded)):
        raise _refusal(model, "; ".join(problems), kind=FUSED)
    if loaded.device.index:
        torch.cuda.set_device(loaded.device)  # kernels of Triton run on the current device
    try:
        expected = reference(loaded)
        num_tokens = min(num_tokens or vocabulary_size(model), loaded.config.get_text_config().vocab_size)
        streams = read_streams(model, loaded)
    except _MISFITS as error:
        raise _refusal(model, f"its own forward fails: {error}", passing=_may_pass(error)) from error
    if streams is not None and not suits(loaded):
        raise _refusal(model, "streams run in models of Llama's kind only")
    return _fastest(_ways(loaded, model, streams, num_tokens, kind=kind), model, expected, kind=kind)


def _fastest(
    ways: dict[str, Callable[[], TorchBackend]], model: str, expected: Reference, *, kind: str
) -> TorchBackend:
    """The first way that gives the model's own numbers.

    What failed for a reason that may pass is tried again by another start, and no slower way is taken for it:
    that would be for as long as this process lives.
    """
    reasons = []
    for way, backend_of in ways.items():
        try:
            backend = backend_of()
            build_promote(backend.new_cache().kv)
            off = deviation(backend, expected)
        except _MISFITS as error:
            reasons.append(f"{way}: {type(error).__name__}: {error}")
            if _may_pass(error):
                raise _refusal(model, "; ".join(reasons), passing=True, kind=kind) from error
            continue
        if off <= expected.tolerance:
            logger.info("%s runs in %s, off by %.1e", model, way, off)
            if reasons:
                logger.warning("%s does not run in what would be faster: %s", model, "; ".join(reasons))
            return backend
        reasons.append(f"{way}: logits off by {off:.3f} of their norm")
    raise _refusal(model, "; ".join(reasons), kind=kind)


def _ways(
    loaded: Any, name: str, streams: StreamWeights | None, num_tokens: int, *, kind: str
) -> dict[str, Callable[[], TorchBackend]]:
    """How the model may be run, the fastest way first."""

    def eager(runner: Callable[[], TreeModel]) -> Callable[[], TorchBackend]:
        return lambda: TorchBackend(loaded, name, runner(), num_tokens=num_tokens)

    def graphed(*, fused: bool) -> Callable[[], TorchBackend]:
        return lambda: GraphedBackend(
            loaded, name, LlamaLoop(loaded, streams), num_tokens=num_tokens, fused=fused
        )

    if kind == FUSED:
        return {"CUDA graphs with merged kernels": graphed(fused=True)}
    ways: dict[str, Callable[[], TorchBackend]] = {}
    if suits(loaded):
        if kind == "torch" and loaded.device.type == "cuda" and has_triton():
            ways["CUDA graphs"] = graphed(fused=False)
        ways["LlamaLoop"] = eager(lambda: LlamaLoop(loaded, streams))
    if streams is None:
        ways["GenericModel"] = eager(lambda: GenericModel(loaded))
    return ways


def _not_fused(loaded: Any) -> list[str]:
    """Why merged kernels cannot compute this model on its device, as far as that shows from without."""
    problems = []
    if loaded.device.type != "cuda":
        problems.append(f"--device {loaded.device} is no GPU")
    if not has_triton():
        problems.append("Triton is not installed")
    if not suits(loaded):
        kind = type(loaded).__name__
        problems.append(f"the model is a {kind}, and merged kernels compute models of Llama's kind only")
    return problems


def _load(model: str, device: str, dtype: str) -> Any:
    from safetensors import SafetensorError  # noqa: PLC0415 - with the model only
    from transformers import AutoModelForCausalLM  # noqa: PLC0415 - takes seconds
    from transformers.utils.logging import disable_progress_bar  # noqa: PLC0415

    disable_progress_bar()
    try:
        if is_enlarged(Path(model)):
            number_format = torch.bfloat16 if dtype == "auto" else getattr(torch, dtype)
            loaded = load_enlarged(Path(model), number_format, device=device, attn_implementation="eager")
        else:
            loaded = AutoModelForCausalLM.from_pretrained(model, dtype=dtype, attn_implementation="eager")
        return loaded.to(device).eval()
    except (*_MISFITS, OSError, AssertionError, ImportError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        said = f"--model {model} --device {device} --dtype {dtype} cannot be loaded: {reason}"
        if isinstance(error, (OSError, RuntimeError, SafetensorError)):  # files and memory change
            raise DraftError(said) from error
        raise SettingsError([said]) from error


def _may_pass(error: BaseException) -> bool:
    """Whether it is the device that failed, and not the model that does not fit.

    What cannot be captured in a graph is an error of CUDA's as well, but at every start; unless it is memory
    that was short, and the end of the capture then failed too.
    """
    said, before = str(error), error.__cause__ or error.__context__
    failed = "CUDA error" in said or "[CUDA]: out of memory" in said  # PyTorch's, Triton's
    if isinstance(error, torch.OutOfMemoryError) or (failed and "captur" not in said):
        return True
    return before is not None and _may_pass(before)


def _refusal(model: str, reason: str, *, passing: bool = False, kind: str = "torch") -> MirrorError:
    if passing:
        remedy = "" if kind == EAGER else f". Where memory stays short, --backend {EAGER} needs less"
        return DraftError(f"--model {model} cannot be served: {reason}{remedy}")
    if kind == FUSED:
        said = f"--backend {FUSED} cannot run --model {model}: {reason}"
        remedy = "Choose --backend torch, which takes the fastest way that suits a model and its device"
    else:
        said = f"--model {model} cannot be a draft: {reason}"
        remedy = (
            "Choose a decoder that attends through transformers' attention interface, such as Llama, Qwen2, "
            "Qwen3, Mistral, Gemma 2, GPT-2 or OPT"
        )
    return SettingsError([f"{said}. {remedy}"])
