"""A torch-only SGLang platform for hosts without an accelerator.

SGLang reaches its CPU engine only through compiled kernels that its packages do not carry for most hosts.
This platform serves there with torch alone, plainly and speculatively. Where SGLang has a platform of its
own, or another plugin brings one, it stays out of the way.
"""

from __future__ import annotations

import os
from importlib.metadata import entry_points, version

from packaging.version import Version

ENTRY_POINT = "mirror_torch"
PLATFORM_CLASS = "sglang_mirror.platform.torch_platform.MirrorTorchPlatform"
FIRST_RELEASE = "0.5.23"
_GROUP = "sglang.srt.platforms"


def activate() -> str | None:
    """The dotted name of our platform class, or None where SGLang must keep its own choice.

    SGLang calls this once in every process, from the entry point group ``sglang.srt.platforms``, just before
    it asks torch the same questions itself, so nothing here costs what SGLang would not have paid.
    """
    if os.getenv("SGLANG_USE_CPU_ENGINE", "0") == "1":
        return None
    if os.getenv("SGLANG_PLATFORM") != ENTRY_POINT and _another_plugin():
        return None
    return PLATFORM_CLASS if _host_is_known() and not _accelerator_visible() else None


def _host_is_known() -> bool:
    """Whether this SGLang asks a platform for its parts as ours answers."""
    return Version(version("sglang")) >= Version(FIRST_RELEASE)


def _another_plugin() -> bool:
    """Whether a second platform plugin is installed: two that say yes make SGLang refuse to start."""
    return any(entry.name != ENTRY_POINT for entry in entry_points(group=_GROUP))


def _accelerator_visible() -> bool:
    """Whether torch sees any device but the CPU.

    ``torch.accelerator`` knows CUDA, ROCm, XPU, MPS and whatever registered as a private backend (NPU, HPU,
    MUSA); the named modules are asked as well because some of those attach themselves to torch without
    registering.
    """
    import torch  # noqa: PLC0415  (this package must be importable without torch)

    if torch.cuda.is_available() or torch.accelerator.is_available():
        return True
    modules = (getattr(torch, name, None) for name in ("npu", "hpu", "musa", "xpu", "mps"))
    return any(module is not None and module.is_available() for module in modules)
