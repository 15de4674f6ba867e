"""The pair through transformers, as the plain functions that the simulator takes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from sglang_mirror.bench.arms import Pair
from sglang_mirror.core.roots import Candidates
from sglang_mirror.core.simulator import Models

Logits = Callable[[tuple[int, ...]], torch.Tensor]


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@torch.inference_mode()
def last_states(model: Any, tokens: tuple[int, ...]) -> list[torch.Tensor]:
    """The last token's hidden state after each layer; the last of them normed. [layers + 1][1, width]"""
    found = model.model(input_ids=torch.tensor([tokens]), output_hidden_states=True)
    return [state[0, -1:] for state in found.hidden_states]


def candidates(logits: torch.Tensor, count: int) -> Candidates:
    """The most probable tokens of logits [1, V]."""
    top = torch.topk(torch.log_softmax(logits[0].float(), -1), count)
    return Candidates(tuple(top.indices.tolist()), tuple(top.values.tolist()))


def reference_models(pair: Pair, *, exit_layer: int | None = None, kappa: int) -> Models:
    """Target, draft and early exit; every prefix is computed once."""
    target, draft = load(pair.target), load(pair.draft)
    layer = exit_layer or target.config.num_hidden_layers // 2

    @functools.cache
    def of_target(tokens: tuple[int, ...]) -> tuple[int, Candidates]:
        states = last_states(target, tokens)
        with torch.inference_mode():
            final = target.lm_head(states[-1])
            exit_ = target.lm_head(target.model.norm(states[layer]))
        return int(final.argmax()), candidates(exit_, kappa + 1)

    @functools.cache
    def of_draft(tokens: tuple[int, ...]) -> Candidates:
        with torch.inference_mode():
            logits = draft(input_ids=torch.tensor([tokens]), logits_to_keep=1, use_cache=False).logits[0]
        return candidates(logits, kappa + 1)

    def next_token(prefix: Sequence[int]) -> int:
        return of_target(tuple(prefix))[0]

    def exit_candidates(prefix: Sequence[int]) -> Candidates:
        return of_target(tuple(prefix))[1]

    return Models(next_token, lambda prefix: of_draft(tuple(prefix)), exit_candidates)
