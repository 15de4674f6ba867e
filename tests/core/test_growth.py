"""A window has the most valuable nodes, in whatever order they were found."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_mirror.core.agreement import Agreement
from sglang_mirror.core.growth import Growth, WindowShape, child_chances
from sglang_mirror.core.roots import Candidates
from tests.core.test_roots import Literal


def options(path: tuple[int, ...], count: int = 4) -> Candidates:
    """Some distribution after a path of tokens, always the same."""
    rng = random.Random(repr(path))
    weights = sorted((rng.random() ** 3 for _ in range(count + 1)), reverse=True)
    tokens = rng.sample(range(100), count)
    return Candidates(tuple(tokens), tuple(math.log(w / sum(weights)) for w in weights[:count]))


def grown(
    shape: WindowShape, order: random.Random | None = None, agreement: Agreement | None = None
) -> Growth:
    growth = Growth(7, shape, agreement or Literal())
    while not growth.complete:
        number = growth.open[0] if order is None else order.choice(growth.open)
        growth.expand({number: options(tokens_to(growth, number))})
    return growth


def tokens_to(growth: Growth, number: int) -> tuple[int, ...]:
    tokens: list[int] = []
    while number != -1:
        tokens.append(growth.nodes[number].token)
        number = growth.nodes[number].parent
    return tuple(reversed(tokens))


def every_path(shape: WindowShape) -> list[tuple[float, tuple[int, ...]]]:
    """Value and tokens of every node of the full tree, by brute force."""
    level, found = [(0.0, (7,))], []
    for _ in range(shape.depth):
        level = [
            (value + chance, (*path, token))
            for value, path in level
            for token, chance in child_chances(options(path), shape.topk, Literal())
        ]
        found += level
    return sorted(found, reverse=True)


@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 12))
def test_the_most_valuable_nodes(depth: int, topk: int, size: int) -> None:
    shape = WindowShape(depth, topk, size)
    growth = grown(shape)
    found = {tokens_to(growth, number) for number in growth.chosen[1:]}
    wanted = [path for _, path in every_path(shape)[:size]]
    assert found == set(wanted)


@given(st.integers(0, 1000))
def test_the_order_of_finding_does_not_matter(seed: int) -> None:
    shape = WindowShape(4, 3, 9)
    assert grown(shape, random.Random(seed)).window() == grown(shape).window()


@given(st.integers(1, 6), st.integers(2, 4), st.integers(2, 20), st.floats(-4.0, 0.0))
def test_all_at_once_is_the_same_as_one_by_one(depth: int, topk: int, size: int, least: float) -> None:
    shape = WindowShape(depth, topk, size, least)
    growth, forwards = Growth(7, shape, Literal()), 0
    while not growth.complete:
        growth.expand({number: options(tokens_to(growth, number)) for number in growth.open})
        forwards += 1
    assert growth.window() == grown(shape).window()
    assert forwards <= depth


def test_one_child_a_node_is_the_chain() -> None:
    window = grown(WindowShape.chain(5)).window()
    assert window.parents == (-1, 0, 1, 2, 3, 4)


def test_chances_sum_to_no_more_than_one() -> None:
    for seed, topk in itertools.product(range(50), (1, 2, 4)):
        chances = [chance for _, chance in child_chances(options((seed,)), topk, Agreement())]
        assert sum(map(math.exp, chances)) <= 1.0 + 1e-9
        assert all(chance < 0 for chance in chances)


def test_a_draft_taken_at_its_word_gives_its_own_probabilities() -> None:
    said = options((3,))
    found = child_chances(said, 4, Literal())
    assert [token for token, _ in found] == list(said.tokens)
    assert [chance for _, chance in found] == pytest.approx(list(said.logprobs))


def test_nothing_known_ends_it() -> None:
    growth = Growth(1, WindowShape(3, 2, 5), Literal())
    growth.expand({0: Candidates((), ())})
    assert growth.complete
    assert growth.window().tokens == (1,)


@given(st.integers(1, 6), st.integers(1, 3), st.integers(2, 12), st.floats(-4.0, 0.0))
def test_a_window_ends_where_nodes_are_not_worth_it(depth: int, topk: int, size: int, least: float) -> None:
    shape = WindowShape(depth, topk, size if topk > 1 else depth, least)
    growth = grown(shape)
    found = {tokens_to(growth, number) for number in growth.chosen[1:]}
    every = every_path(shape)
    worth = [path for value, path in every[: shape.size] if value >= least]
    assert found == set(worth or [every[0][1]])  # its best child is always there
