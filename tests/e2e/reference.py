"""The pair through transformers, as the plain functions that the simulator takes."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, DynamicCache

from sglang_mirror.bench.arms import Pair
from sglang_mirror.bench.identity import first_difference
from sglang_mirror.core.roots import Candidates
from sglang_mirror.core.simulator import Models


class Prefixes:
    """A model asked about one prefix after another; what two in a row share is computed once.

    Args:
        folder: the model's.
    """

    def __init__(self, folder: Path) -> None:
        torch.set_num_threads(1)  # small models: more threads only wait for each other
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self._cache = DynamicCache(config=self.model.config)
        self._held: list[int] = []

    @torch.inference_mode()
    def states(self, tokens: Sequence[int]) -> list[torch.Tensor]:
        """The last token's hidden state after each layer, the last of them normed: [layers + 1][width]."""
        differs = first_difference(self._held, tokens)
        shared = len(tokens) - 1 if differs is None else min(differs, len(tokens) - 1)
        if shared:
            self._cache.crop(shared)
        else:  # crop(0) would leave it as it is
            self._cache = DynamicCache(config=self.model.config)
        rest = torch.tensor([tokens[shared:]])
        found = self.model.model(input_ids=rest, past_key_values=self._cache, output_hidden_states=True)
        self._held = list(tokens)
        return [state[0, -1] for state in found.hidden_states]

    @torch.inference_mode()
    def logits(self, normed: torch.Tensor) -> torch.Tensor:
        """[width] -> [V]"""
        found: torch.Tensor = self.model.lm_head(normed)
        return found


def candidates(logits: torch.Tensor, count: int) -> Candidates:
    """The most probable tokens of logits [V]."""
    top = torch.topk(torch.log_softmax(logits.float(), -1), count)
    return Candidates(tuple(top.indices.tolist()), tuple(top.values.tolist()))


def reference_models(pair: Pair, *, exit_layer: int | None = None, kappa: int) -> Models:
    """Target, draft and early exit; every prefix is computed once."""
    target, draft = Prefixes(pair.target), Prefixes(pair.draft)
    layer = exit_layer or target.model.config.num_hidden_layers // 2

    @functools.cache
    def of_target(tokens: tuple[int, ...]) -> tuple[int, Candidates]:
        states = target.states(tokens)
        with torch.inference_mode():
            early = target.model.model.norm(states[layer])
        return int(target.logits(states[-1]).argmax()), candidates(target.logits(early), kappa + 1)

    @functools.cache
    def of_draft(tokens: tuple[int, ...]) -> Candidates:
        return candidates(draft.logits(draft.states(tokens)[-1]), kappa + 1)

    return Models(
        target=lambda prefix: of_target(tuple(prefix))[0],
        draft=lambda prefix: of_draft(tuple(prefix)),
        exit=lambda prefix: of_target(tuple(prefix))[1],
    )
