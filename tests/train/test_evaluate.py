"""Counting steps by one forward gives what a step-by-step decoder gets."""

from __future__ import annotations

import random

import pytest
import torch

from sglang_mirror.train.evaluate import Acceptance, bits_per_byte, steps_of

VOCAB = 7


def decode_by_steps(row: list[int], proposed: list[int], prompt_len: int, gamma: int) -> list[int]:
    """Accepted counts of a plain chain decoder; `proposed[i]` is drafted after the prefix row[: i + 1]."""
    accepted_counts = []
    committed = prompt_len
    while committed + gamma < len(row):
        accepted = 0
        for depth in range(gamma):
            if proposed[committed - 1 + depth] != row[committed + depth]:
                break
            accepted += 1
        accepted_counts.append(accepted)
        committed += accepted + 1
    return accepted_counts


@pytest.mark.parametrize("gamma", [1, 3, 5])
def test_steps_are_those_of_a_decoder(gamma: int) -> None:
    rng = random.Random(gamma)
    row = [rng.randrange(3) for _ in range(60)]
    proposed = [rng.randrange(3) for _ in range(60)]
    agrees = [False, *(p == t for p, t in zip(proposed, row[1:], strict=False))]
    assert [s.accepted for s in steps_of(agrees, 4, gamma)] == decode_by_steps(row, proposed, 4, gamma)


def test_a_perfect_draft_fills_every_window() -> None:
    row = torch.arange(30) % VOCAB
    logits = torch.nn.functional.one_hot((row + 1) % VOCAB, VOCAB).float()
    count = Acceptance(gamma=4, exits=[])
    count.add(row, 5, {"draft": logits})
    result = count.result()
    assert result["accepted_len"] == 5.0
    assert result["full"] == 1.0
    assert result["at_bonus"]["draft"]["1"] == 1.0


def test_a_correction_is_ranked_without_the_own_child() -> None:
    row = torch.zeros(30, dtype=torch.long)
    logits = torch.zeros(30, VOCAB)
    logits[:, 3], logits[:, 0] = 2.0, 1.0  # always drafts 3; the correction 0 is its second choice
    count = Acceptance(gamma=4, exits=[])
    count.add(row, 5, {"draft": logits})
    result = count.result()
    assert result["accepted_len"] == 1.0
    assert result["at_rejection"]["draft"]["1"] == 1.0


def test_bits_per_byte() -> None:
    assert bits_per_byte(0.6931471805599453, num_tokens=10, num_bytes=40) == pytest.approx(0.25)
