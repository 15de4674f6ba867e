"""Windows as SGLang's verification takes them: what its tree builder makes of them is what they were."""

from __future__ import annotations

import random

import pytest
import torch

from sglang_mirror.core.growth import WindowShape
from sglang_mirror.core.window import Window
from sglang_mirror.engine.step import lay_out, side_by_side, taken_apart
from sglang_mirror.platform import tree


def grown(rng: random.Random, shape: WindowShape, size: int) -> Window:
    """A random tree of `size` nodes within `shape`, its last node a leaf as in every window."""
    parents, depths, counts = [-1], [0], [0]
    while len(parents) < size:
        parent = rng.choice(
            [node for node in range(len(parents)) if depths[node] < shape.depth and counts[node] < shape.topk]
        )
        counts[parent] += 1
        parents.append(parent)
        depths.append(depths[parent] + 1)
        counts.append(0)
    return Window(tuple(rng.sample(range(100), size)), tuple(parents))


@pytest.mark.parametrize(
    "shape",
    [
        WindowShape.chain(1),
        WindowShape.chain(5),
        WindowShape(2, 2, 3),
        WindowShape(4, 3, 8),
        WindowShape(7, 4, 15),
        WindowShape(3, 4, 9),
        *(WindowShape(10, 4, 15).of_size(size) for size in (1, 2, 4, 9, 12)),
    ],
)
def test_the_builder_gives_the_tree_back(shape: WindowShape) -> None:
    rng = random.Random(repr(shape))
    n = shape.num_nodes
    assert n > shape.depth, "SGLang writes a path of depth + 1 nodes into a window's n"
    windows = [grown(rng, shape, rng.randint(2, n)) for _ in range(20)]
    laid = lay_out(windows, shape)
    batch = len(windows)
    mask = torch.ones(batch * n * n, dtype=torch.bool)
    positions, links = torch.empty(batch * n, dtype=torch.int64), torch.full((3, batch, n), -1)
    lens = torch.zeros(batch, dtype=torch.int64)
    tree.build_tree(
        laid.places,
        laid.numbers,
        lens,
        mask,
        positions,
        *links,
        shape.topk,
        shape.depth,
        n,
        tree.QLEN_ONLY,
    )
    children = laid.children(shape.topk).view(batch, n, shape.topk).tolist()
    for row, window in enumerate(windows):
        assert laid.tokens[row, : len(window) - 1].tolist() == list(window.tokens[1:])
        for node in range(len(window)):
            below = window.children(node)
            padding_follows = node == len(window) - 1 < n - 1
            first = below[0] if below else node + 1 if padding_follows else -1
            assert links[1][row, node] == first
            for child, following in zip(below, [*below[1:], -1], strict=False):
                assert links[2][row, child] == following
            path, above = set(), node
            while above != -1:
                path.add(above)
                above = window.parents[above]
            seen = mask.view(batch, n, n)[row, node].nonzero().flatten().tolist()
            assert set(seen) == path
            said = {token for token in children[row][node] if token != -1}
            if not padding_follows:
                assert said == window.child_tokens(node)


def test_without_a_window_there_is_padding_only() -> None:
    laid = lay_out([None, Window.chain(5, [6])], WindowShape.chain(2))
    assert laid.tokens.tolist() == [[0, 0], [6, 0]]
    assert laid.parents == [[-1, 0, 1]] * 2


def test_a_plain_step_has_roots_only() -> None:
    laid = lay_out([None, None], WindowShape.chain(0))
    assert laid.tokens.shape == laid.numbers.shape == (2, 0)
    assert laid.children(1).tolist() == [[-1], [-1]]


def test_what_goes_to_a_device_goes_in_one_piece_and_begins_where_kernels_expect_it() -> None:
    found = [torch.arange(size).view(shape) + 1 for size, shape in ((3, (3, 1)), (8, (2, 4)), (5, (1, 5)))]
    together = side_by_side(found)
    parts = taken_apart(together, found)
    assert all(torch.equal(part, each) for part, each in zip(parts, found, strict=True))
    assert all(part.storage_offset() * together.itemsize % 16 == 0 for part in parts)
    assert all(part.is_contiguous() for part in parts)
    empty = [torch.empty(2, 0, dtype=torch.int64)] * 2
    assert [part.shape for part in taken_apart(side_by_side(empty), empty)] == [(2, 0), (2, 0)]
