"""Random windows as SGLang's drafts select them, each with its plain description as a reference."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class DraftedTree:
    """A window of n nodes: what SGLang hands to the tree builder, and what it means."""

    parent_list: list[int]
    selected: list[int]  # n - 1 numbers, ascending
    parents: list[int]  # by node, the root first with parent -1

    def path(self, node: int) -> list[int]:
        """The nodes from the root to `node`."""
        return [] if node == -1 else [*self.path(self.parents[node]), node]

    def children(self, node: int) -> list[int]:
        """In the order of their node numbers."""
        return [child for child, parent in enumerate(self.parents) if parent == node]


def draft_tree(rng: random.Random, *, topk: int, steps: int, n: int) -> DraftedTree:
    """Play SGLang's draft: topk tokens, topk children of each of the topk best, numbered as they come."""
    score = {number: rng.random() for number in range(topk)}
    parent: dict[int, int] = dict.fromkeys(range(topk), -1)
    frontier = list(range(topk))
    parent_list = [-1, *frontier]
    for step in range(1, steps):
        base = topk + topk * topk * (step - 1)
        for i, up in enumerate(frontier):
            for j in range(topk):
                number = base + i * topk + j
                score[number], parent[number] = score[up] * rng.random(), up
        new = range(base, base + topk * topk)
        frontier = sorted(new, key=lambda number: -score[number])[:topk]
        if step < steps - 1:
            parent_list += frontier
    if steps == 1:
        parent_list = []
    selected = sorted(sorted(score, key=lambda number: -score[number])[: n - 1])
    node = {number: i + 1 for i, number in enumerate(selected)}
    parents = [-1] + [0 if parent[number] == -1 else node[parent[number]] for number in selected]
    return DraftedTree(parent_list, selected, parents)


def shapes() -> list[tuple[int, int, int]]:
    """(topk, steps, n) of windows worth trying: chains, a single step, bushes, everything drafted."""
    return [(1, 1, 2), (1, 5, 6), (2, 1, 3), (2, 3, 6), (2, 2, 7), (3, 2, 5), (4, 3, 9), (3, 4, 16)]


def stack(trees: list[DraftedTree]) -> tuple[torch.Tensor, torch.Tensor]:
    """`parent_list` and `top_scores_index` of a batch."""
    return (
        torch.tensor([tree.parent_list for tree in trees], dtype=torch.int64),
        torch.tensor([tree.selected for tree in trees], dtype=torch.int64),
    )
