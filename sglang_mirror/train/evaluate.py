"""What the pair is worth: held-out loss, accepted length of a chain, and where the corrections are found.

For a chain that drafts greedily no rollout is needed: as long as every draft token agreed, the draft's prefix
*is* the target's text. So one forward over the target's own continuation gives what the draft would have
proposed at each of its positions, and the steps follow by counting. The same holds for text sampled from the
target, since a draft token is accepted when the target's own sample equals it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import Qwen3ForCausalLM

from sglang_mirror.train.data import TOKEN_DTYPE
from sglang_mirror.train.generate import continue_rows

KAPPAS = (1, 2, 4, 8, 16)


@dataclass(frozen=True, slots=True)
class Step:
    """One verification: the draft tokens accepted, where it ended, and whether that was the leaf."""

    accepted: int
    node: int  # index, in the row, of the token after which the correction stands
    full: bool


@torch.inference_mode()  # type: ignore[untyped-decorator]
def heldout_loss(
    model: Qwen3ForCausalLM, path: Path, *, window_len: int = 512, every: int = 4, batch: int = 16
) -> float:
    """Mean nats per token over a token file: one in `every` of its windows, without overlap."""
    tokens = torch.from_numpy(np.fromfile(path, dtype=TOKEN_DTYPE).astype(np.int64))
    total = 0.0
    starts = range(0, len(tokens) - window_len, window_len * every)
    for first in range(0, len(starts), batch):
        rows = torch.stack([tokens[s : s + window_len + 1] for s in starts[first : first + batch]])
        hidden = model.model(input_ids=rows[:, :-1], use_cache=False).last_hidden_state
        logits = model.lm_head(hidden).flatten(0, 1)
        total += F.cross_entropy(logits, rows[:, 1:].flatten(), reduction="sum").item()
    return total / (len(starts) * window_len)


def bits_per_byte(nats_per_token: float, num_tokens: int, num_bytes: int) -> float:
    """The loss in bits for each byte of text."""
    return nats_per_token / math.log(2) * num_tokens / num_bytes


def steps_of(agrees: Sequence[bool], prompt_len: int, gamma: int) -> Iterator[Step]:
    """The steps that decode a row; agrees[i]: the draft's token for position i is the target's."""
    root = prompt_len - 1  # the last committed token
    while root + gamma + 1 < len(agrees):
        accepted = 0
        while accepted < gamma and agrees[root + accepted + 1]:
            accepted += 1
        yield Step(accepted=accepted, node=root + accepted, full=accepted == gamma)
        root += accepted + 1


class Acceptance:
    """Counts steps over rows; ranks the real correction among the draft's and the early exits' candidates."""

    def __init__(self, gamma: int, exits: Sequence[int]) -> None:
        self.gamma = gamma
        self.steps: list[Step] = []
        self.ranks: dict[str, list[int]] = {"draft": [], **{f"exit {layer}": [] for layer in exits}}
        self.bonus_ranks: dict[str, list[int]] = {name: [] for name in self.ranks}

    def add(self, row: torch.Tensor, prompt_len: int, logits: dict[str, torch.Tensor]) -> None:
        """Counts one row of tokens [T]; `logits` by the name of who guesses, each [T, V]."""
        proposed = logits["draft"].argmax(-1)  # [T]: for the position after each
        agrees = [False, *(proposed[:-1] == row[1:]).tolist()]
        for step in steps_of(agrees, prompt_len, self.gamma):
            self.steps.append(step)
            ranks = self.bonus_ranks if step.full else self.ranks
            for name, guesses in logits.items():
                scores = guesses[step.node].clone()
                if not step.full:
                    scores[proposed[step.node]] = -math.inf  # the node's own child is no correction
                correction = row[step.node + 1]
                ranks[name].append(int((scores > scores[correction]).sum()))

    def result(self) -> dict[str, Any]:
        """Mean accepted length with the bonus, the number of steps, and coverage by kappa."""
        return {
            "gamma": self.gamma,
            "steps": len(self.steps),
            "accepted_len": 1 + sum(s.accepted for s in self.steps) / len(self.steps),
            "full": sum(s.full for s in self.steps) / len(self.steps),
            "at_rejection": {name: _coverage(ranks) for name, ranks in self.ranks.items()},
            "at_bonus": {name: _coverage(ranks) for name, ranks in self.bonus_ranks.items()},
        }


def _coverage(ranks: Sequence[int]) -> dict[str, float]:
    return {str(k): sum(rank < k for rank in ranks) / max(1, len(ranks)) for k in KAPPAS}


@torch.inference_mode()  # type: ignore[untyped-decorator]
def acceptance(
    target: Qwen3ForCausalLM,
    draft: Qwen3ForCausalLM,
    prompts: Sequence[list[int]],
    *,
    gammas: Sequence[int],
    temperature: float,
    num_tokens: int = 128,
) -> list[dict[str, Any]]:
    """Decodes `num_tokens` after every prompt with the target, then counts for each gamma."""
    num_layers = target.config.num_hidden_layers
    exits = [num_layers // 4, num_layers // 2, num_layers * 3 // 4]
    counts = [Acceptance(gamma, exits) for gamma in gammas]
    torch.manual_seed(0)
    for ids in prompts:
        prompt = torch.tensor([ids])
        text = continue_rows(target, prompt, num_tokens, torch.tensor([temperature]))
        row = torch.cat([prompt, text], 1)
        hidden = target.model(input_ids=row, output_hidden_states=True, use_cache=False).hidden_states
        logits = {"draft": draft(input_ids=row, use_cache=False).logits[0]}
        for layer in exits:
            logits[f"exit {layer}"] = target.lm_head(target.model.norm(hidden[layer]))[0]
        for count in counts:
            count.add(row[0], len(ids), logits)
    return [count.result() | {"temperature": temperature} for count in counts]
