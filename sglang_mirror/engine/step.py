"""One target verification: windows in, committed tokens out, on SGLang's own tree verification."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sglang_mirror.core.window import Window
from sglang_mirror.engine.host import (
    CaptureHiddenMode,
    EagleDraftInput,
    EagleVerifyInput,
    build_eagle_verify_input,
    default_tree_mask_mode,
    run_eagle_verify,
)

# Stands where a short window has no token. Were the target to choose it, it would be committed rightly.
PAD_TOKEN = 0
NUM_STEPS_ARE_ASKED = "num_steps" in inspect.signature(run_eagle_verify).parameters  # SGLang 0.5.17


@dataclass(frozen=True, slots=True)
class Shape:
    """A step's window shape: `num_steps` draft tokens behind the root, all in one chain."""

    num_steps: int

    @property
    def num_nodes(self) -> int:
        return self.num_steps + 1


def draft_tokens(windows: Sequence[Window | None], shape: Shape) -> torch.Tensor:
    """The windows without their roots, padded, int64 [B, gamma]."""
    rows = [list(window.tokens[1 : shape.num_nodes]) if window else [] for window in windows]
    return torch.tensor(
        [row + [PAD_TOKEN] * (shape.num_steps - len(row)) for row in rows], dtype=torch.int64
    ).view(len(windows), shape.num_steps)


def own_children(tokens: torch.Tensor) -> torch.Tensor:
    """Each node's child in a batch of chains, -1 at the leaves, [B * n, 1]; `tokens` is [B, gamma]."""
    leaf = tokens.new_full((len(tokens), 1), -1)
    return torch.cat([tokens, leaf], dim=1).view(-1, 1)


class Verifier:
    """Runs SGLang's verification with our windows.

    Args:
        worker: the speculative worker, after SGLang has given it its pools.
        device: the target's.
    """

    def __init__(self, worker: Any, device: str) -> None:
        self._worker, self._device = worker, device

    def draft_input(self, bonus_tokens: torch.Tensor) -> Any:
        """What SGLang carries from step to step for each request: its root. [B]"""
        rows = len(bonus_tokens)
        return EagleDraftInput(
            bonus_tokens=bonus_tokens,
            topk_p=torch.zeros(rows, 1, device=self._device),
            topk_index=torch.zeros(rows, 1, dtype=torch.int64, device=self._device),
            capture_hidden_mode=CaptureHiddenMode.NULL,
        )

    def prepare(self, batch: Any, tokens: torch.Tensor, shape: Shape) -> None:
        """Turn the batch into a verification of `tokens`, int64 [B, gamma], behind each request's root."""
        draft_input = batch.spec_info
        draft_input.bonus_tokens = draft_input.bonus_tokens.to(torch.int64)
        rows, gamma = len(tokens), shape.num_steps
        steps = torch.arange(gamma, device=self._device)
        batch.spec_info = build_eagle_verify_input(
            batch,
            draft_input,
            (steps - 1).repeat(rows, 1),  # in a chain, token i's parent is token i - 1
            steps.repeat(rows, 1),
            tokens.to(self._device),
            None,
            target_worker=self._worker.target_worker,
            topk=1,
            num_steps=gamma,
            num_draft_tokens=shape.num_nodes,
            tree_mask_mode=default_tree_mask_mode(),
            device=self._device,
        )

    def prepare_idle(self, batch: Any, shape: Shape) -> None:
        """A rank without requests takes part with an empty verification."""
        batch.spec_info = EagleVerifyInput.create_idle_input(
            1, shape.num_steps, shape.num_nodes, self._device
        )

    def run(self, batch: Any, shape: Shape, grammar_barrier: Any) -> Any:
        """Verify; SGLang's own result, ready for its scheduler."""
        extra = {"num_steps": shape.num_steps} if NUM_STEPS_ARE_ASKED else {}
        result = run_eagle_verify(
            batch,
            target_worker=self._worker.target_worker,
            req_to_token_pool=self._worker.req_to_token_pool,
            token_to_kv_pool_allocator=self._worker.token_to_kv_pool_allocator,
            plan_stream=None,
            plan_stream_ctx=contextlib.nullcontext(),
            topk=1,
            num_draft_tokens=shape.num_nodes,
            device=self._device,
            metadata_ready_pre_pad=False,
            finalize_tree_path=True,
            grammar_barrier=grammar_barrier,
            **extra,
        )
        result.next_draft_input = self.draft_input(result.next_draft_input.bonus_tokens)
        return result


def committed_tokens(result: Any, shape: Shape) -> list[list[int]]:
    """The tokens that each request of a verified batch commits: accepted ones, then the correction."""
    counts = result.accept_lens.tolist()
    rows = result.next_token_ids.view(len(counts), shape.num_nodes).tolist()
    return [row[:count] for row, count in zip(rows, counts, strict=True)]
