"""Run by test_tree under TRITON_INTERPRET=1: our tree functions against SGLang's Triton kernels."""

from __future__ import annotations

import random
import sys

import torch
from drafted_trees import draft_tree, shapes, stack
from sglang.kernels.ops.speculative import spec_tree

from sglang_mirror.platform import tree


def compare(shape: tuple[int, int, int], seed: int) -> None:
    """Build in both mask layouts, then walk, by both implementations."""
    topk, steps, n = shape
    rng = random.Random(seed)
    trees = [draft_tree(rng, topk=topk, steps=steps, n=n) for _ in range(2)]
    lens = torch.tensor([rng.randrange(1, 9) for _ in trees])
    links = torch.empty(0)
    for mode in (spec_tree.TreeMaskMode.FULL_MASK, spec_tree.TreeMaskMode.QLEN_ONLY):
        built = []
        for builder in (spec_tree.sgl_build_tree_kernel_triton, tree.build_tree):
            cells = n * int(lens.sum()) + 2 * n * n if mode == 0 else 2 * n * n
            mask, positions = torch.ones(cells, dtype=torch.bool), torch.zeros(2 * n, dtype=torch.int64)
            links = torch.full((3, 2, n), -1)
            builder(*stack(trees), lens, mask, positions, *links, topk, steps, n, mode)
            built.append((mask, positions, links))
        assert all(torch.equal(theirs, ours) for theirs, ours in zip(*built, strict=True)), (
            shape,
            seed,
            mode,
        )
    candidates = torch.tensor([[rng.randrange(3) for _ in range(n)] for _ in trees])
    wanted = torch.tensor([[rng.randrange(3) for _ in range(n)] for _ in trees])
    walked = []
    for walker in (spec_tree.verify_tree_greedy_triton, tree.verify_tree_greedy):
        predicts = torch.zeros(2 * n, dtype=torch.int32)
        accept_index = torch.full((2, steps + 1), -1, dtype=torch.int32)
        counts = torch.empty(2, dtype=torch.int32)
        walker(predicts, accept_index, counts, candidates, *links, wanted)
        walked.append((predicts, accept_index, counts))
    assert all(torch.equal(theirs, ours) for theirs, ours in zip(*walked, strict=True)), (shape, seed)


def main() -> None:
    """Exit with an assertion at the first difference."""
    done = 0
    for shape in shapes():
        for seed in range(4):
            compare(shape, seed)
            done += 1
    sys.stdout.write(f"compared {done}\n")


if __name__ == "__main__":
    main()
