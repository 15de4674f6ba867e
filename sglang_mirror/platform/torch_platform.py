"""The platform class that SGLang instantiates, and the KV pool it hands out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from sglang.srt.platforms.cpu import CpuDeviceMixin
from sglang.srt.platforms.device_mixin import PlatformEnum
from sglang.srt.platforms.interface import PlatformCapabilities, SRTPlatform

from sglang_mirror.platform import cache_locs

ATTENTION_BACKEND = "torch_native"


class MirrorTorchPlatform(CpuDeviceMixin, SRTPlatform):  # type: ignore[misc]
    """CPU device operations, no Triton, no graphs: SGLang then takes its torch-native allocators and writers.

    Signatures are the host's, hence the unused arguments.
    """

    _enum = PlatformEnum.OOT
    capabilities = PlatformCapabilities()

    def get_device(self, device_id: int = 0) -> str:  # noqa: ARG002
        """By its name: SGLang looks for a number in it where no `--device` is given."""
        return "cpu"

    def get_default_attention_backend(self) -> str:
        """SGLang's torch backend, under whose name `install` registers ours."""
        return ATTENTION_BACKEND

    def get_dispatch_key_name(self) -> str:
        """Fused operations run their ``forward_native``."""
        return "native"

    def is_pin_memory_available(self, device: object = None) -> bool:  # noqa: ARG002
        """There is no device to pin host memory for."""
        return False

    def supports_speculative_algorithm(self, algorithm: str) -> bool:  # noqa: ARG002
        """Every algorithm may try: what the platform lacks fails by its own name."""
        return True

    def supports_speculative_draft_attention_backend(self, algorithm: str, backend: str) -> bool:  # noqa: ARG002
        """A built-in draft model runs on the same attention backend as the target."""
        return backend == ATTENTION_BACKEND

    def get_default_speculative_draft_attention_backend(self, algorithm: str) -> str:  # noqa: ARG002
        """See `supports_speculative_draft_attention_backend`."""
        return ATTENTION_BACKEND

    def get_kv_pool_cls(self, *, kind: str) -> type | None:
        """Our pool for multi-head attention; SGLang's own for the other kinds."""
        if kind != "mha":
            return None
        from sglang_mirror.platform.kv_pool import TorchKVPool  # noqa: PLC0415  (pools import this platform)

        return TorchKVPool

    def get_speculative_cache_locs_fn(self) -> Callable[..., torch.Tensor]:
        """KV slots of the window's nodes; SGLang's own function returns None on an unknown device."""
        return cache_locs.extend_cache_locs
