"""Building and walking windows: against their plain description, and against SGLang's own kernels."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sglang_mirror.platform import tree
from tests.platform.drafted_trees import DraftedTree, draft_tree, shapes, stack

FULL, QLEN = tree.FULL_MASK, tree.QLEN_ONLY


def build(
    trees: list[DraftedTree], lens: list[int], shape: tuple[int, int, int], mode: int
) -> list[torch.Tensor]:
    """mask, positions, retrieve_index, next_token, next_sibling."""
    topk, steps, n = shape
    batch = len(trees)
    cells = sum(n * (seq_len + n) for seq_len in lens) if mode == FULL else batch * n * n
    mask = torch.ones(cells + 5, dtype=torch.bool)  # a buffer may be larger than it needs to be
    positions = torch.empty(batch * n, dtype=torch.int64)
    links = torch.full((3, batch, n), -1)
    tree.build_tree(*stack(trees), torch.tensor(lens), mask, positions, *links, topk, steps, n, mode)
    return [mask[:cells], positions, *links]


@pytest.mark.parametrize("shape", shapes())
@pytest.mark.parametrize("mode", [FULL, QLEN])
def test_builds_what_was_drafted(shape: tuple[int, int, int], mode: int) -> None:
    topk, steps, n = shape
    rng = random.Random(f"{shape}")
    trees = [draft_tree(rng, topk=topk, steps=steps, n=n) for _ in range(3)]
    lens = [rng.randrange(9) for _ in trees]
    mask, positions, index, next_token, next_sibling = build(trees, lens, shape, mode)
    cells = iter(mask.tolist())
    for b, (drafted, seq_len) in enumerate(zip(trees, lens, strict=True)):
        for node in range(n):
            path = drafted.path(node)
            prefix = [True] * seq_len if mode == FULL else []
            assert [next(cells) for _ in range(len(prefix) + n)] == prefix + [i in path for i in range(n)]
            assert positions[b * n + node] == seq_len + len(path) - 1
            assert index[b, node] == b * n + node
            children = drafted.children(node)
            assert next_token[b, node] == (children[0] if children else -1)
            for child, following in zip(children, [*children[1:], -1], strict=False):
                assert next_sibling[b, child] == following


def test_a_token_without_its_parent_is_left_out() -> None:
    """Tied scores can select a token whose parent was not: here number 4, a child of number 1."""
    links = torch.full((3, 1, 3), -1)
    mask, positions = torch.ones(9, dtype=torch.bool), torch.empty(3, dtype=torch.int64)
    parent_list, selected = torch.tensor([[-1, 0, 1]]), torch.tensor([[0, 4]])
    tree.build_tree(parent_list, selected, torch.tensor([7]), mask, positions, *links, 2, 2, 3, QLEN)
    assert links.tolist() == [[[0, 1, 2]], [[1, -1, -1]], [[-1, -1, -1]]]
    assert mask.view(3, 3).tolist() == [[True, False, False], [True, True, False], [True, False, True]]
    assert positions.tolist() == [7, 8, 8]


def test_refuses_packed_masks() -> None:
    empty = torch.empty(1, 0, dtype=torch.int64)
    with pytest.raises(NotImplementedError, match="tree mask mode 2"):
        tree.build_tree(empty, empty, torch.tensor([1]), *[empty] * 5, 1, 1, 1, 2)


@pytest.mark.parametrize("shape", shapes())
def test_walks_as_far_as_the_target_agrees(shape: tuple[int, int, int]) -> None:
    topk, steps, n = shape
    for seed in range(20):
        rng = random.Random(seed)
        trees = [draft_tree(rng, topk=topk, steps=steps, n=n) for _ in range(3)]
        _, _, *links = build(trees, [0] * 3, shape, QLEN)
        candidates = torch.tensor([[rng.randrange(3) for _ in range(n)] for _ in trees])
        wanted = torch.tensor([[rng.randrange(3) for _ in range(n)] for _ in trees])
        predicts = torch.zeros(3 * n, dtype=torch.int32)
        accept_index = torch.full((3, steps + 1), -1, dtype=torch.int32)
        counts = torch.empty(3, dtype=torch.int32)
        got = tree.verify_tree_greedy(predicts, accept_index, counts, candidates, *links, wanted, topk)
        assert got[0] is predicts
        for b, drafted in enumerate(trees):
            path = [0]
            while agreeing := [
                c for c in drafted.children(path[-1]) if candidates[b, c] == wanted[b, path[-1]]
            ]:
                path.append(agreeing[0])
            assert accept_index[b].tolist() == [b * n + i for i in path] + [-1] * (steps + 1 - len(path))
            assert counts[b] == len(path) - 1
            want = [int(wanted[b, i]) if i in path else 0 for i in range(n)]
            assert predicts[b * n : (b + 1) * n].tolist() == want


def test_equals_sglangs_triton_kernels() -> None:
    """In a process of its own: Triton decides at import whether it interprets."""
    script = Path(__file__).with_name("compare_with_triton.py")
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "compared 32" in done.stdout
