"""The SGLang functions that have no torch version of their own, and ours in their place."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from sglang.srt.layers.attention.attention_registry import register_attention_backend
from sglang.srt.plugins.hook_registry import HookRegistry, HookType

from sglang_mirror.platform import cache_locs, tree
from sglang_mirror.platform.torch_platform import ATTENTION_BACKEND

_OPS = "sglang.kernels.ops.speculative"
_FACTORY = "sglang.srt.speculative.draft_utils.DraftBackendFactory"

REPLACED: dict[str, Callable[..., Any]] = {
    f"{_OPS}.cache_locs.assign_draft_cache_locs_contiguous_func": cache_locs.draft_cache_locs_contiguous,
    f"{_OPS}.cache_locs.fill_front_out_cache_loc_func": cache_locs.front_out_cache_loc,
    f"{_OPS}.eagle.fill_bonus_tokens_func": cache_locs.bonus_tokens,
    f"{_OPS}.eagle.fill_accept_out_cache_loc_func": cache_locs.accept_out_cache_loc,
    f"{_OPS}.spec_tree.build_tree_kernel_efficient_func": tree.build_tree,
    f"{_OPS}.spec_tree.verify_tree_greedy_func": tree.verify_tree_greedy,
    "sglang.srt.mem_cache.allocation.assign_req_to_token_pool_func": cache_locs.assign_req_to_token_pool,
}

# SGLang's function: the module and the name of our hook, imported when first called, in a configured engine.
WRAPPED: dict[str, tuple[str, str]] = {
    f"{_FACTORY}.create_decode_backend": ("draft_attention", "around_decode_backend"),
    f"{_FACTORY}.create_draft_extend_backend": ("draft_attention", "around_draft_extend_backend"),
    "sglang.srt.speculative.eagle_utils.eagle_sample": ("sampling", "around_eagle_sample"),
}

_UPDATER = "sglang.srt.managers.scheduler_components.weight_updater.SchedulerWeightUpdaterManager"

# The same, as a whole: products are packed only in a host whose every way to update weights is known.
PACKING: dict[str, tuple[str, str]] = {
    "sglang.srt.layers.quantization.unquant.UnquantizedLinearMethod.apply": ("packed", "around_linear"),
    "sglang.srt.layers.logits_processor.LogitsProcessor._compute_lm_head": ("packed", "around_head"),
    f"{_UPDATER}.update_weights_from_disk": ("packed", "around_update"),
    f"{_UPDATER}.update_weights_from_distributed": ("packed", "around_update"),
    f"{_UPDATER}.update_weights_from_tensor": ("packed", "around_update"),
    f"{_UPDATER}.update_weights_from_ipc": ("packed", "around_update"),
    f"{_UPDATER}.resume_memory_occupation": ("packed", "around_update"),
}


def register() -> None:
    """Register them all: the registry applies its part when every plugin has registered."""
    for target, ours in REPLACED.items():
        HookRegistry.register(target, ours, HookType.REPLACE)
    packing = PACKING if find_spec(_UPDATER.rsplit(".", 1)[0]) else {}
    for target, (module, name) in (WRAPPED | packing).items():
        HookRegistry.register(target, _lazily(module, name), HookType.AROUND)
    _set_samplers()
    register_attention_backend(ATTENTION_BACKEND)(_attention_backend)


def _attention_backend(model_runner: Any) -> Any:
    from sglang_mirror.platform.attention import MirrorTorchBackend  # noqa: PLC0415  (needs a configured engine)

    return MirrorTorchBackend(model_runner)


def _lazily(module: str, name: str) -> Callable[..., Any]:
    """The hook `name` of our module, which is imported at the first call."""

    @cache
    def load() -> Callable[..., Any]:
        ours: Callable[..., Any] = getattr(import_module(f"sglang_mirror.platform.{module}"), name)
        return ours

    def hook(*args: Any, **kwargs: Any) -> Any:
        return load()(*args, **kwargs)

    return hook


def _set_samplers() -> None:
    """Set plain attributes: the originals are None here, and the registry's propagation would replace every
    attribute of every module that is None.
    """
    from sglang.srt.speculative import eagle_utils  # noqa: PLC0415

    from sglang_mirror.platform import sampling  # noqa: PLC0415

    eagle_utils.tree_speculative_sampling_target_only = sampling.sample_tree
    eagle_utils.top_k_renorm_prob = sampling.unfiltered
    eagle_utils.top_p_renorm_prob = sampling.unfiltered
