"""Attention of SGLang's built-in draft models (STANDALONE, EAGLE): one backend a drafting step.

A drafting round writes its steps' keys and values into slots that the request already owns past its length:
branch t of request b owns ``req_to_token[b, len + t * steps : len + (t + 1) * steps]``. At step i its row
sees the prefix and its first i + 1 own slots, which is how SGLang's own backends lay branches out at page
size 1 or without branches.
"""

from __future__ import annotations

from typing import Any

import torch

from sglang_mirror.platform import attention_plan
from sglang_mirror.platform.attention import MirrorTorchBackend
from sglang_mirror.platform.torch_platform import ATTENTION_BACKEND


class DraftStepBackend(MirrorTorchBackend):
    """Attention of one step; the container below plans all steps at once."""

    def init_forward_metadata(self, forward_batch: Any) -> None:
        """Nothing: planned by `DraftStepsBackend`."""


class DraftStepsBackend:
    """The container that SGLang's draft worker expects: ``attn_backends[i]`` serves step i of a round."""

    def __init__(self, model_runner: Any, *, topk: int, num_steps: int) -> None:
        if topk > 1 and model_runner.page_size > 1:
            raise NotImplementedError("the torch-only platform drafts trees at --page-size 1 only")
        self.topk = topk
        self.num_steps = num_steps
        self.req_to_token_pool = model_runner.req_to_token_pool
        self.attn_backends = [DraftStepBackend(model_runner) for _ in range(num_steps - 1)]
        self.prefill_attention_backend_str = self.decode_attention_backend_str = ATTENTION_BACKEND
        for backend in self.attn_backends:
            backend.prefill_attention_backend_str = backend.decode_attention_backend_str = ATTENTION_BACKEND

    def init_forward_metadata(self, forward_batch: Any) -> None:
        """Resolve every step's slots for every (request, branch) row."""
        table = self.req_to_token_pool.req_to_token
        rows = [row for row in forward_batch.req_pool_indices.tolist() for _ in range(self.topk)]
        lens = [seq_len for seq_len in forward_batch.seq_lens.tolist() for _ in range(self.topk)]
        branch_at = [seq_len + i % self.topk * self.num_steps for i, seq_len in enumerate(lens)]
        own = attention_plan.tail_slots(table, rows, branch_at, self.num_steps)
        for step, backend in enumerate(self.attn_backends):
            seen = torch.ones(len(rows), 1, step + 1, dtype=torch.bool)
            backend.set_plan(attention_plan.group(table, rows, lens, own[:, : step + 1], seen))


def around_decode_backend(original: Any, factory: Any) -> Any:
    """AROUND ``DraftBackendFactory.create_decode_backend``: ours where the draft is on the torch backend."""
    steps = factory.speculative_num_steps
    if steps <= 1 or not _on_torch(factory, prefill=False):
        return original(factory)
    return DraftStepsBackend(factory.draft_model_runner, topk=factory.topk, num_steps=steps)


def around_draft_extend_backend(original: Any, factory: Any) -> Any:
    """AROUND ``DraftBackendFactory.create_draft_extend_backend``: None keeps its runner's backend."""
    return None if _on_torch(factory, prefill=True) else original(factory)


def _on_torch(factory: Any, *, prefill: bool) -> bool:
    from sglang.srt.runtime_context import attention_backends  # noqa: PLC0415  (absent before 0.5.18)

    configured = attention_backends()[0 if prefill else 1]
    return bool((factory.draft_attn_backend or configured) == ATTENTION_BACKEND)
