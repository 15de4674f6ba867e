"""Attention in torch that knows what a window is: decode, extend and verification over one plan per forward.

SGLang's torch backend looks every request's KV slots up again in every layer, computes the cached prefix's queries again
at every extend, and cannot verify. Here `init_forward_metadata` resolves slots and masks once, and every layer does one
gather of keys and of values and one scaled dot product a request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from sglang.kernels.ops.speculative.spec_tree import TreeMaskMode
from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend
from sglang.srt.layers.attention.verify_mask import VerifyMask
from sglang.srt.mem_cache.memory_pool import KVWriteLoc
from torch.nn.functional import scaled_dot_product_attention


@dataclass(frozen=True, slots=True)
class Span:
    """One request's share of a forward: queries ``[start, end)`` over the KV slots of all tokens they may see."""

    start: int
    end: int
    slots: torch.Tensor  # int64 [kv]
    mask: torch.Tensor | None  # bool [q, kv]; None: every query sees everything
    kv_positions: torch.Tensor | None


class MirrorTorchBackend(TorchNativeAttnBackend):  # type: ignore[misc]
    """SGLang's torch attention with a plan per forward."""

    def __init__(self, model_runner: Any) -> None:
        super().__init__(model_runner)
        self.max_context_len = model_runner.model_config.context_len
        self._verify_mask = VerifyMask(
            buffer=torch.empty(0, dtype=torch.bool), mode=TreeMaskMode.QLEN_ONLY, max_bs=0
        )
        self._spans: list[Span] = []

    @property
    def verify_mask(self) -> VerifyMask:
        """Asks SGLang for the small mask, n x n a request, in a fresh tensor each time."""
        return self._verify_mask

    def init_forward_metadata(self, forward_batch: Any) -> None:
        """Resolve this forward's KV slots and masks."""
        super().init_forward_metadata(forward_batch)
        mode = forward_batch.forward_mode
        table = self.req_to_token_pool.req_to_token
        rows = forward_batch.req_pool_indices.tolist()
        lens = forward_batch.seq_lens.tolist()
        self._spans = []
        if mode.is_idle():
            return
        start = 0
        if mode.is_target_verify():
            spec = forward_batch.spec_info
            n = spec.draft_token_num
            qlen_only = spec.custom_mask is not None and spec.custom_mask.numel() == n * n * len(rows)
            offset = 0
            for i, (row, prefix) in enumerate(zip(rows, lens, strict=True)):
                mask = torch.ones(n, prefix + n, dtype=torch.bool)
                if spec.custom_mask is None:
                    mask = mask.tril_(prefix)
                elif qlen_only:
                    mask[:, prefix:] = spec.custom_mask[i * n * n : (i + 1) * n * n].view(n, n)
                else:
                    mask = spec.custom_mask[offset : offset + mask.numel()].view_as(mask)
                    offset += mask.numel()
                self._spans.append(Span(start, start + n, table[row, : prefix + n].long(), mask, None))
                start += n
        elif mode.is_decode():
            for i, (row, kv) in enumerate(zip(rows, lens, strict=True)):
                self._spans.append(Span(i, i + 1, table[row, :kv].long(), None, None))
        else:
            for row, prefix, new in zip(
                rows, forward_batch.extend_prefix_lens.tolist(), forward_batch.extend_seq_lens.tolist(), strict=True
            ):
                mask = torch.ones(new, prefix + new, dtype=torch.bool).tril_(prefix)
                self._spans.append(Span(start, start + new, table[row, : prefix + new].long(), mask, None))
                start += new

    def forward_extend(
        self, q: Any, k: Any, v: Any, layer: Any, forward_batch: Any, save_kv_cache: bool = True, **_: Any
    ) -> torch.Tensor:
        """Attention of one layer."""
        return self._attend(q, k, v, layer, forward_batch, save_kv_cache)

    def forward_decode(
        self, q: Any, k: Any, v: Any, layer: Any, forward_batch: Any, save_kv_cache: bool = True, **_: Any
    ) -> torch.Tensor:
        """Attention of one layer."""
        return self._attend(q, k, v, layer, forward_batch, save_kv_cache)

    def _attend(self, q: Any, k: Any, v: Any, layer: Any, forward_batch: Any, save: bool) -> torch.Tensor:
        if save and k is not None:
            self.token_to_kv_pool.set_kv_buffer(
                layer, KVWriteLoc(forward_batch.out_cache_loc, self.swa_out_cache_loc), k, v
            )
        q = q.view(-1, layer.tp_q_head_num, layer.qk_head_dim)
        out = q.new_empty(q.shape[0], layer.tp_q_head_num, layer.v_head_dim)
        keys = self.token_to_kv_pool.get_key_buffer(layer.layer_id)
        values = self.token_to_kv_pool.get_value_buffer(layer.layer_id)
        for span in self._spans:
            attended = scaled_dot_product_attention(
                q[span.start : span.end].transpose(0, 1)[None],
                keys[span.slots].transpose(0, 1)[None].to(q.dtype),
                values[span.slots].transpose(0, 1)[None].to(q.dtype),
                attn_mask=span.mask,
                scale=layer.scaling,
                enable_gqa=layer.tp_q_head_num != layer.tp_k_head_num,
            )
            out[span.start : span.end] = attended[0].transpose(0, 1)
        return out.view(-1, layer.tp_q_head_num * layer.v_head_dim)
