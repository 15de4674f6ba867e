"""Penalties at every node of a window, against plain decoding's bookkeeping written as a loop."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sglang_mirror.engine.penalties import penalise

VOCABULARY = 12


def request(output: list[int], **asked: float) -> Any:
    parameters = {
        "frequency_penalty": 0.0,
        "presence_penalty": 0.0,
        "repetition_penalty": 1.0,
        "min_new_tokens": 0,
    }
    return SimpleNamespace(output_ids=output, sampling_params=SimpleNamespace(**{**parameters, **asked}))


def plainly(logits: torch.Tensor, said: list[int], asked: Any, stop: int) -> torch.Tensor:
    """What plain decoding makes of the logits after it has said `said`."""
    found = logits.clone()
    for token, count in Counter(said).items():
        found[token] -= asked.frequency_penalty * count + asked.presence_penalty
    if len(said) < asked.min_new_tokens:
        found[stop] = -torch.inf
    for token in set(said):
        scale = asked.repetition_penalty
        found[token] = found[token] * scale if found[token] < 0 else found[token] / scale
    return found


def test_every_node_is_judged_by_what_was_said_before_it() -> None:
    stop = 11
    requests = [
        request([3, 3], frequency_penalty=0.5),
        request([1], presence_penalty=0.7, repetition_penalty=1.3),
        request([2], min_new_tokens=4, frequency_penalty=-0.2),
        request([7]),
    ]
    unread = [[6, 5], [], [4], []]
    windows = torch.tensor([[5, 3, 8], [1, 1, 2], [4, 9, 9], [7, 0, 0]])
    logits = torch.randn(12, VOCABULARY, generator=torch.Generator().manual_seed(0))
    additive = torch.zeros(4, VOCABULARY)
    additive[2, stop] = -torch.inf
    info = SimpleNamespace(acc_additive_penalties=additive, acc_scaling_penalties=torch.ones(4, VOCABULARY))
    found = logits.clone()
    parents = [[-1, 0, 1], [-1, 0, 0], [-1, 0, 0], [-1, 0, 1]]  # chains and forks
    penalise(SimpleNamespace(reqs=requests, sampling_info=info), windows[:, 1:], parents, unread, found)
    for row, req in enumerate(requests):
        for node in range(3):
            path: list[int] = []
            above = node
            while above > 0:
                path.insert(0, int(windows[row, above]))
                above = parents[row][above]
            said = [*req.output_ids, *unread[row], *path]
            wanted = plainly(logits[row * 3 + node], said, req.sampling_params, stop)
            assert found[row * 3 + node].tolist() == pytest.approx(wanted.tolist(), abs=1e-6), (row, node)
    assert info.acc_additive_penalties is None
    assert info.acc_scaling_penalties is None


def test_nothing_asked_nothing_done() -> None:
    logits = torch.ones(3, VOCABULARY)
    info = SimpleNamespace(acc_additive_penalties=None, acc_scaling_penalties=None)
    penalise(
        SimpleNamespace(reqs=[request([1])], sampling_info=info),
        torch.tensor([[2, 3]]),
        [[-1, 0, 1]],
        [[]],
        logits,
    )
    assert logits.eq(1).all()
