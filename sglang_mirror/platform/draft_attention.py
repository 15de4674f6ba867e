"""Attention of SGLang's built-in draft models (STANDALONE, EAGLE): one backend a drafting step.

A drafting round writes all its steps' keys and values into slots that the request already owns past its length: branch t
of request b owns ``req_to_token[b, len + t * steps : len + (t + 1) * steps]``. At step i its row sees the prefix and its
first i + 1 own slots, which is how SGLang's own backends lay the branches out.
"""

from __future__ import annotations

from typing import Any

import torch

from sglang_mirror.platform.attention import MirrorTorchBackend, Span
from sglang_mirror.platform.torch_platform import ATTENTION_BACKEND


class DraftStepBackend(MirrorTorchBackend):
    """Attention of one step; the container below plans for all steps at once."""

    def init_forward_metadata(self, forward_batch: Any) -> None:
        """Nothing: planned by `DraftStepsBackend`."""


class DraftStepsBackend:
    """The container that SGLang's draft worker expects: ``attn_backends[i]`` serves step i of a round."""

    def __init__(self, model_runner: Any, *, topk: int, num_steps: int) -> None:
        self.topk = topk
        self.num_steps = num_steps
        self.req_to_token_pool = model_runner.req_to_token_pool
        self.attn_backends = [DraftStepBackend(model_runner) for _ in range(num_steps - 1)]
        for backend in (self, *self.attn_backends):
            backend.prefill_attention_backend_str = ATTENTION_BACKEND
            backend.decode_attention_backend_str = ATTENTION_BACKEND

    def init_forward_metadata(self, forward_batch: Any) -> None:
        """Resolve every step's slots for every (request, branch) row."""
        plans: list[list[Span]] = [[] for _ in self.attn_backends]
        table = self.req_to_token_pool.req_to_token
        rows = forward_batch.req_pool_indices.tolist()
        for row, prefix_len in zip(rows, forward_batch.seq_lens.tolist(), strict=True):
            for branch in range(self.topk):
                own = prefix_len + branch * self.num_steps
                slots = torch.cat([table[row, :prefix_len], table[row, own : own + self.num_steps]]).long()
                for step, plan in enumerate(plans):
                    start = len(plan)
                    plan.append(Span(start, start + 1, slots[: prefix_len + step + 1], None, None))
        for backend, plan in zip(self.attn_backends, plans, strict=True):
            backend._spans = plan
            backend.swa_out_cache_loc = None


def create_decode_backend(original: Any, factory: Any) -> Any:
    """AROUND ``DraftBackendFactory.create_decode_backend``: ours where the draft runs on the torch backend."""
    steps = factory.speculative_num_steps
    if steps <= 1 or not _on_torch(factory, prefill=False):
        return original(factory)
    return DraftStepsBackend(factory.draft_model_runner, topk=factory.topk, num_steps=steps)


def create_draft_extend_backend(original: Any, factory: Any) -> Any:
    """AROUND ``DraftBackendFactory.create_draft_extend_backend``: None lets the draft worker keep its runner's backend."""
    return None if _on_torch(factory, prefill=True) else original(factory)


def _on_torch(factory: Any, *, prefill: bool) -> bool:
    from sglang.srt.runtime_context import attention_backends  # noqa: PLC0415  (absent before 0.5.20)

    configured = attention_backends()[0 if prefill else 1]
    return bool((factory.draft_attn_backend or configured) == ATTENTION_BACKEND)
