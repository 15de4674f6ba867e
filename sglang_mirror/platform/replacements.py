"""The list of SGLang's functions that have no torch version of their own, and ours in their place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sglang.srt.layers.attention.attention_registry import register_attention_backend
from sglang.srt.plugins.hook_registry import HookRegistry, HookType

from sglang_mirror.platform import cache_locs, sampling, tree
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


def register() -> None:
    """Register them all."""
    for target, ours in REPLACED.items():
        HookRegistry.register(target, ours, HookType.REPLACE)
    for name in ("create_decode_backend", "create_draft_extend_backend"):
        HookRegistry.register(f"{_FACTORY}.{name}", _around_factory(name), HookType.AROUND)
    _set_samplers()

    @register_attention_backend(ATTENTION_BACKEND)
    def _create(runner: Any) -> Any:
        from sglang_mirror.platform.attention import MirrorTorchBackend  # noqa: PLC0415

        return MirrorTorchBackend(runner)


def _around_factory(name: str) -> Callable[..., Any]:
    """The hook of that name in `draft_attention`, imported when first called: it needs a configured engine."""

    def hook(original: Callable[..., Any], factory: Any) -> Any:
        from sglang_mirror.platform import draft_attention  # noqa: PLC0415

        return getattr(draft_attention, name)(original, factory)

    return hook


def _set_samplers() -> None:
    """Plain attributes: on this platform the originals are None, and the registry's propagation would replace every
    attribute of every module that is None.
    """
    from sglang.srt.speculative import eagle_utils  # noqa: PLC0415

    eagle_utils.tree_speculative_sampling_target_only = sampling.tree_sampling_target_only
    eagle_utils.top_k_renorm_prob = sampling.top_k_mask
    eagle_utils.top_p_renorm_prob = sampling.top_p_mask
