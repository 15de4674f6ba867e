"""Attention in torch that knows what a window is: decode, extend and verification over one plan per forward.

SGLang's torch backend looks every request's KV slots up again in every layer, recomputes the cached prefix's
queries at every extend, and cannot verify. Here `init_forward_metadata` resolves slots and masks once (see
attention_plan), and a layer does one scaled dot product over them.
"""

from __future__ import annotations

from typing import Any

import torch
from sglang.kernels.ops.speculative.spec_tree import TreeMaskMode
from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend
from sglang.srt.layers.attention.verify_mask import VerifyMask
from sglang.srt.layers.radix_attention import AttentionType
from sglang.srt.mem_cache.memory_pool import KVWriteLoc
from torch.nn.functional import scaled_dot_product_attention

from sglang_mirror.platform import attention_plan
from sglang_mirror.platform.attention_plan import Group


class MirrorTorchBackend(TorchNativeAttnBackend):  # type: ignore[misc]
    """SGLang's torch attention, planned once a forward; encoders and cross-attention stay with it."""

    def __init__(self, model_runner: Any) -> None:
        super().__init__(model_runner)
        self.max_context_len = model_runner.model_config.context_len
        self.plan: list[Group] = []
        # The pool's share of sliding-window layers has its own slot numbers.
        self._swa_layers = getattr(self.token_to_kv_pool, "layers_mapping", {})
        self._swa_plan: list[Group] = []
        # Asks SGLang for the small mask, n x n a request; max_bs=0 makes it allocate a fresh one each time.
        self._verify_mask = VerifyMask(
            buffer=torch.empty(0, dtype=torch.bool), mode=TreeMaskMode.QLEN_ONLY, max_bs=0
        )

    @property
    def verify_mask(self) -> VerifyMask:
        """The layout of mask that verification should hand us."""
        return self._verify_mask

    def init_forward_metadata(self, forward_batch: Any) -> None:
        """Resolve this forward's KV slots and masks."""
        super().init_forward_metadata(forward_batch)
        self.set_plan([] if forward_batch.forward_mode.is_idle() else self._make_plan(forward_batch))

    def set_plan(self, plan: list[Group]) -> None:
        """Take `plan` for the coming layers, with its slots translated for a separate sliding-window pool."""
        self.plan = plan
        if self.use_sliding_window_kv_pool:
            self._swa_plan = [self._to_swa(group) for group in plan]

    def forward_extend(  # noqa: PLR0917  (the host's signature)
        self, q: Any, k: Any, v: Any, layer: Any, forward_batch: Any, save_kv_cache: bool = True
    ) -> torch.Tensor:
        """Attention of one layer over new tokens or a window: [tokens, heads * head_dim] in and out."""
        if layer.is_cross_attention or layer.attn_type == AttentionType.ENCODER_ONLY:
            return super().forward_extend(q, k, v, layer, forward_batch, save_kv_cache)
        return self._attend(q, (k, v) if save_kv_cache else None, layer, forward_batch)

    def forward_decode(  # noqa: PLR0917  (the host's signature)
        self, q: Any, k: Any, v: Any, layer: Any, forward_batch: Any, save_kv_cache: bool = True
    ) -> torch.Tensor:
        """Attention of one layer over one new token a request."""
        if layer.is_cross_attention:
            return super().forward_decode(q, k, v, layer, forward_batch, save_kv_cache)
        return self._attend(q, (k, v) if save_kv_cache else None, layer, forward_batch)

    def _attend(self, q: Any, new: tuple[Any, Any] | None, layer: Any, forward_batch: Any) -> torch.Tensor:
        """Attention of one layer, after writing the `new` keys and values if there are any to write."""
        if layer.logit_cap:
            raise NotImplementedError("the torch-only platform has no attention with soft-capped logits")
        pool = self.token_to_kv_pool
        if new is not None and new[0] is not None:
            pool.set_kv_buffer(layer, KVWriteLoc(forward_batch.out_cache_loc, self.swa_out_cache_loc), *new)
        keys, values = pool.get_key_buffer(layer.layer_id), pool.get_value_buffer(layer.layer_id)
        q = q.view(-1, layer.tp_q_head_num, layer.qk_head_dim)
        plan = self._swa_plan if self._swa_layers.get(layer.layer_id, (0, False))[1] else self.plan
        pieces = [_attend_group(group, q, keys, values, layer) for group in plan]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def _make_plan(self, forward_batch: Any) -> list[Group]:
        """The plan of a decode, a verification or an extend."""
        table = self.req_to_token_pool.req_to_token
        rows: list[int] = forward_batch.req_pool_indices.tolist()
        lens: list[int] = forward_batch.seq_lens.tolist()
        mode = forward_batch.forward_mode
        if mode.is_decode():
            prefix_lens = [seq_len - 1 for seq_len in lens]  # SGLang counts the token being decoded
            return attention_plan.new_tokens(table, rows, prefix_lens, [1] * len(rows))
        if mode.is_target_verify():
            spec = forward_batch.spec_info
            tail = _window_mask(spec.custom_mask, lens, spec.draft_token_num)
            slots = attention_plan.tail_slots(table, rows, lens, spec.draft_token_num)
            return attention_plan.group(table, rows, lens, slots, tail)
        prefix_lens = forward_batch.extend_prefix_lens.tolist()
        return attention_plan.new_tokens(table, rows, prefix_lens, forward_batch.extend_seq_lens.tolist())

    def _to_swa(self, group: Group) -> Group:
        """The same group in the sliding-window pool's slots; evicted tokens have none and are masked."""
        slots = group.slots
        if isinstance(slots, slice):
            slots = torch.arange(slots.start, slots.stop)
        slots = self.token_to_kv_pool.translate_loc_from_full_to_swa(slots).long().clamp_(min=0)
        return Group(group.start, group.prefix_lens, slots, group.tail)


def _attend_group(
    group: Group, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, layer: Any
) -> torch.Tensor:
    """Attention of a group: `q` [tokens, heads, dim] over `keys` and `values` [slots, kv_heads, dim]."""
    query = q[group.start : group.stop].unflatten(0, (group.batch, -1)).transpose(1, 2)  # [b, heads, n, dim]
    window = layer.sliding_window_size
    out = scaled_dot_product_attention(
        query,
        _take(keys, group, q.dtype),
        _take(values, group, q.dtype),
        attn_mask=group.mask(-1 if window is None else window, q.dtype),
        scale=layer.scaling,
        enable_gqa=layer.tp_q_head_num != layer.tp_k_head_num,
    )
    return out.transpose(1, 2).reshape(group.stop - group.start, -1)


def _take(cache: torch.Tensor, group: Group, dtype: torch.dtype) -> torch.Tensor:
    """A group's keys or values [b, kv_heads, kv, dim]: a view of consecutive slots, else one gather."""
    slots = group.slots
    rows = cache[slots] if isinstance(slots, slice) else cache.index_select(0, slots)
    rows = rows.unflatten(0, (group.batch, -1)).transpose(1, 2)
    return rows if rows.dtype == dtype else rows.to(dtype)


def _window_mask(custom_mask: torch.Tensor | None, prefix_lens: list[int], n: int) -> torch.Tensor:
    """Which nodes each node of a window sees, bool [B, n, n], from either layout of SGLang's mask.

    QLEN_ONLY packs n x n cells a request, FULL_MASK n x (len + n), whose first columns, the prefix, are
    always visible. A FULL_MASK may be longer than its content. No mask means a chain, and so does one node.
    """
    batch = len(prefix_lens)
    if custom_mask is None or n == 1:
        return attention_plan.causal(n).expand(batch, -1, -1)
    if custom_mask.numel() == batch * n * n:
        return custom_mask.view(batch, n, n)
    windows = []
    offset = 0
    for prefix_len in prefix_lens:
        cells = custom_mask[offset : offset + n * (prefix_len + n)]
        windows.append(cells.view(n, -1)[:, prefix_len:])
        offset += cells.numel()
    return torch.stack(windows)
