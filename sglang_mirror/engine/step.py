"""One target verification: windows in, committed tokens out, on SGLang's own tree verification."""

from __future__ import annotations

import contextlib
import inspect
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from sglang_mirror.core.growth import WindowShape
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
class Laid:
    """A batch of windows as SGLang's verification takes them, all n nodes large.

    Attributes:
        tokens: without the roots, int64 [B, n - 1].
        parents: of every node, -1 for the roots, [B][n].
        places: SGLang's parent list, int64 [B, places].
        numbers: SGLang's number of each draft token, int64 [B, n - 1].
    """

    tokens: torch.Tensor
    parents: list[list[int]]
    places: torch.Tensor
    numbers: torch.Tensor

    def children(self, topk: int) -> torch.Tensor:
        """Tokens of each node's children, padded with -1, int64 [B * n, topk]."""
        rows = []
        for tokens, parents in zip(self.tokens.tolist(), self.parents, strict=True):
            below: list[list[int]] = [[] for _ in parents]
            for token, parent in zip(tokens, parents[1:], strict=True):
                below[parent].append(token)
            rows += [each + [-1] * (topk - len(each)) for each in below]
        return torch.tensor(rows, dtype=torch.int64)


def lay_out(windows: Sequence[Window | None], shape: WindowShape) -> Laid:
    """Windows side by side; a short one goes on with padding, in a chain behind its last node.

    SGLang names a draft token by a number: which entry of the parent list holds its parent's, times topk,
    plus its rank among that parent's children. The last node is a leaf, so the padding is nobody's sibling.
    """
    count = shape.size
    tokens, parents, places, numbers = [], [], [], []
    for window in windows:
        ours = list(window.tokens[1 : shape.num_nodes]) if window else []
        above = list(window.parents[1 : shape.num_nodes]) if window else []
        above += range(len(above), count)
        tokens.append(ours + [PAD_TOKEN] * (count - len(ours)))
        parents.append([-1, *above])
        place, named = _named(above, shape)
        places.append(place)
        numbers.append(named)
    by_request = len(windows), count
    return Laid(
        torch.tensor(tokens, dtype=torch.int64).view(by_request),
        parents,
        torch.tensor(places, dtype=torch.int64).view(len(windows), num_places(shape)),
        torch.tensor(numbers, dtype=torch.int64).view(by_request),
    )


def num_places(shape: WindowShape) -> int:
    """Entries of SGLang's parent list: the root's, and one a node that has children."""
    return shape.topk * (shape.depth - 1) + 1 if shape.depth else 0


def _named(above: Sequence[int], shape: WindowShape) -> tuple[list[int], list[int]]:
    """SGLang's parent list and numbers for draft tokens whose parents are `above`."""
    places, numbers = [-1], list[int]()
    place_of, ranks = {0: 0}, Counter[int]()
    for parent in above:
        if parent not in place_of:
            place_of[parent] = len(places)
            places.append(numbers[parent - 1])
        numbers.append(place_of[parent] * shape.topk + ranks[parent])
        ranks[parent] += 1
    room = num_places(shape)
    return (places + [-1] * (room - len(places)))[:room], numbers


class Verifier:
    """Runs SGLang's verification with our windows.

    Args:
        worker: the speculative worker, after SGLang has given it its pools.
        device: the target's.
        group: SGLang's group of the target's ranks.
    """

    def __init__(self, worker: Any, device: str, group: Any) -> None:
        self._worker, self._device, self._group = worker, device, group

    def draft_input(self, bonus_tokens: torch.Tensor) -> Any:
        """What SGLang carries from step to step for each request: its root. [B]"""
        rows = len(bonus_tokens)
        return EagleDraftInput(
            bonus_tokens=bonus_tokens,
            topk_p=torch.zeros(rows, 1, device=self._device),
            topk_index=torch.zeros(rows, 1, dtype=torch.int64, device=self._device),
            capture_hidden_mode=CaptureHiddenMode.NULL,
        )

    def prepare(self, batch: Any, laid: Laid, shape: WindowShape, unread: Sequence[Sequence[int]]) -> None:
        """Turn the batch into a verification of these windows, each behind its request's root.

        `unread` are the last tokens of each request's output, as far as SGLang has not taken them in.
        """
        batch.spec_info.bonus_tokens = batch.spec_info.bonus_tokens.to(torch.int64)
        batch.spec_info = self._windows(batch, laid, shape) if shape.size else self._roots(batch)
        # For penalties, node by node, and for tokens that are drawn: see the seam around `eagle_sample`.
        batch.spec_info.laid, batch.spec_info.unread = laid, unread
        batch.spec_info.sampler = self._worker.model_runner.sampler
        batch.spec_info.group = self._group

    def _windows(self, batch: Any, laid: Laid, shape: WindowShape) -> Any:
        places, numbers, tokens = self._on_device(laid.places, laid.numbers, laid.tokens)
        return build_eagle_verify_input(
            batch,
            batch.spec_info,
            places,
            numbers,
            tokens,
            None,
            target_worker=self._worker.target_worker,
            topk=shape.topk,
            num_steps=shape.depth,
            num_draft_tokens=shape.num_nodes,
            tree_mask_mode=default_tree_mask_mode(),
            device=self._device,
        )

    def _roots(self, batch: Any) -> Any:
        """Each request's root alone, for which SGLang's tree builder would launch kernels on nothing."""
        lens, backend = batch.seq_lens, self._worker.model_runner.attn_backend
        count = len(lens)
        numbers = torch.arange(count, dtype=torch.int64, device=self._device)[:, None]
        nobody = torch.full_like(numbers, -1)
        return EagleVerifyInput(
            draft_token=batch.spec_info.bonus_tokens,
            custom_mask=_all_visible(batch, backend),
            positions=lens.to(torch.int64),
            retrieve_index=numbers,
            retrieve_next_token=nobody,
            retrieve_next_sibling=nobody.clone(),
            retrieve_cum_len=None,
            spec_steps=0,
            topk=1,
            draft_token_num=1,
            capture_hidden_mode=None,
            seq_lens_sum=None,
            seq_lens_cpu=None,
        )

    def _on_device(self, *found: torch.Tensor) -> Sequence[torch.Tensor]:
        """The target's; copied there at once, and without waiting for what it computes."""
        if self._device == "cpu":
            return found
        together = side_by_side(found).pin_memory().to(self._device, non_blocking=True)
        return taken_apart(together, found)

    def prepare_idle(self, batch: Any, shape: WindowShape) -> None:
        """A rank without requests takes part with an empty verification."""
        batch.spec_info = EagleVerifyInput.create_idle_input(
            shape.topk, shape.depth, shape.num_nodes, self._device
        )

    def run(self, batch: Any, shape: WindowShape, grammar_barrier: Any) -> Any:
        """Verify; SGLang's own result, ready for its scheduler."""
        extra = {"num_steps": shape.depth} if NUM_STEPS_ARE_ASKED else {}
        result = run_eagle_verify(
            batch,
            target_worker=self._worker.target_worker,
            req_to_token_pool=self._worker.req_to_token_pool,
            token_to_kv_pool_allocator=self._worker.token_to_kv_pool_allocator,
            plan_stream=None,
            plan_stream_ctx=contextlib.nullcontext(),
            topk=shape.topk,
            num_draft_tokens=shape.num_nodes,
            device=self._device,
            metadata_ready_pre_pad=False,
            finalize_tree_path=True,
            grammar_barrier=grammar_barrier,
            **extra,
        )
        result.next_draft_input = self.draft_input(result.next_draft_input.bonus_tokens)
        return result


def _all_visible(batch: Any, backend: Any) -> torch.Tensor:
    """The mask of verifications of the root alone, in whichever layout: a cell for all that each may see.

    It may be longer than what is read of it, and is where SGLang keeps the lengths on the device only.
    """
    count, mask = len(batch.seq_lens), backend.verify_mask
    if mask is not None and mask.fits(count):
        return mask.buffer.fill_(True)
    if batch.seq_lens_cpu is not None:
        seen = int(batch.seq_lens_cpu.sum())
    else:
        seen = count * backend.max_context_len
    return torch.ones(seen + count, dtype=torch.bool, device=batch.seq_lens.device)


def side_by_side(found: Sequence[torch.Tensor]) -> torch.Tensor:
    """Their numbers one behind another, each tensor's from a multiple of 16 bytes on, int64 [all of them].

    Triton compiles a kernel once more for what begins elsewhere, and it would in the middle of service.
    """
    return torch.cat([F.pad(each.flatten(), (0, each.numel() % 2)) for each in found])


def taken_apart(together: torch.Tensor, like: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The tensors that `side_by_side` has put together, of shapes `like` theirs."""
    parts = together.split([each.numel() + each.numel() % 2 for each in like])
    return [part[: each.numel()].view(each.shape) for part, each in zip(parts, like, strict=True)]


def committed_tokens(ids: torch.Tensor, counts: torch.Tensor, shape: WindowShape) -> list[list[int]]:
    """The tokens that each request of a verified batch commits: accepted ones, then the correction.

    Args:
        ids: SGLang's next tokens, [B * n], of which each request has its first ones.
        counts: how many, [B].
        shape: of the windows.
    """
    lengths = counts.tolist()
    rows = ids.view(len(lengths), shape.num_nodes).tolist()
    return [row[:length] for row, length in zip(rows, lengths, strict=True)]
