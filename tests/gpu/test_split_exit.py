"""Ranks' graphs on one GPU leave their letters in shared memory that CUDA knows; the first rank publishes.

What another GPU for each rank would change is the wire between them, and nothing here uses it.
"""

from __future__ import annotations

import queue
from typing import Any

import pytest
import torch

from sglang_mirror.engine.exit_head import ExitHead, TopKappa
from sglang_mirror.engine.mailbox import Place
from sglang_mirror.engine.shared_memory import register_with_cuda, shared_numbers
from sglang_mirror.engine.streamed_exit import StreamedExit
from tests.engine.letters import DEADLINE_S
from tests.engine.rank_processes import running
from tests.engine.test_split_exit import KAPPA, NODES, SIZES, STEPS, WIDTH, assert_wanted, ids_of, whole
from tests.gpu.signal_timing import captured

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here"),
]


@torch.inference_mode()
def _by_graphs(group: Any) -> list[Any]:
    device, ids = torch.device("cuda", 0), ids_of(group)
    hidden, part = torch.zeros(NODES, WIDTH, device=device), torch.zeros(len(ids), WIDTH, device=device)
    head = ExitHead(lambda rows, _batch: rows @ part.T, KAPPA, start=ids.start, num_ranks=group.world_size)
    length = Place.length(NODES, head.width)
    letters = shared_numbers(group, group.world_size * length, register_with_cuda)
    assert letters.is_pinned()
    tap = StreamedExit(
        head,
        topk=2,
        device=device,
        letters=letters.view(group.world_size, length),
        rank=group.rank_in_group,
    )

    def forward() -> None:
        tap.take(hidden + 0, None)
        tap.finish()

    graph, got, published = captured(forward), queue.Queue[TopKappa](), []
    for step in range(1, STEPS + 1):
        states, weights, children = whole(step)
        hidden.copy_(states)
        part.copy_(weights[ids.start : ids.stop])
        tap.arm(children, lambda *candidates: got.put(candidates))
        graph.replay()
        tap.disarm(DEADLINE_S)
        if group.rank_in_group == 0:
            published.append([each.tolist() for each in got.get_nowait()])
        group.broadcast_object(None, src=0)  # as the next step's windows are
    return published


def test_captured_letters_are_put_together() -> None:
    with running(len(SIZES)) as ranks:
        first, *others = ranks.run(_by_graphs)
    assert others == [[], []]
    assert_wanted([(torch.tensor(tokens), torch.tensor(logprobs)) for tokens, logprobs in first])
