"""The oracle itself: lossless, and its counts add up."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_mirror.core.growth import WindowShape
from sglang_mirror.core.roots import Candidates, RootMode
from sglang_mirror.core.simulator import Models, simulate


def guesses(seed: int, *, vocab: int = 12) -> Models:
    """Draft and exit rank the vocabulary at random; the target is often among their first."""

    def ranked(prefix: Sequence[int], salt: str) -> Candidates:
        picker = random.Random(f"{seed} {salt} {tuple(prefix[-3:])}")
        tokens = picker.sample(range(vocab), 6)
        return Candidates(tuple(tokens), (-0.6, -1.4, -2.2, -3.0, -4.0, -5.0))

    def target(prefix: Sequence[int]) -> int:
        picker = random.Random(f"{seed} target {tuple(prefix)}")
        return picker.choice(ranked(prefix, "draft").tokens[:3])

    return Models(target, lambda p: ranked(p, "draft"), lambda p: ranked(p, "exit"))


@given(
    seed=st.integers(0, 500),
    gamma=st.integers(1, 5),
    topk=st.integers(1, 3),
    kappa=st.integers(0, 4),
    mode=st.sampled_from(["union", "exit", "draft", "none"]),
    budget=st.integers(0, 8),
)
def test_commits_what_the_target_alone_would_say(
    *, seed: int, gamma: int, topk: int, kappa: int, mode: RootMode, budget: int
) -> None:
    models = guesses(seed)
    prompt = [1, 2, 3]
    plain = list(prompt)
    while len(plain) < 60:
        plain.append(models.target(plain))
    shape = WindowShape(gamma, topk, gamma * topk)
    steps = simulate(models, prompt, num_tokens=30, shape=shape, kappa=kappa, mode=mode, budget=budget)
    length = len(prompt) + 1
    for step in steps:
        assert step.committed_len == length
        assert step.window[0] == plain[length - 1]
        assert gamma < len(step.window) <= gamma * topk + 1
        assert step.outcome.correction == plain[length + step.num_accepted]
        if topk == 1:
            assert list(step.window[1 : step.num_accepted + 1]) == plain[length : length + step.num_accepted]
        length += step.num_accepted + 1
        if mode == "none" or not budget:
            assert step.source is None
        if mode in ("exit", "draft"):
            assert step.source in (mode, None)
    assert length >= len(prompt) + 30


def test_a_perfect_draft_with_enough_roots_always_hits() -> None:
    def target(prefix: Sequence[int]) -> int:
        return (3 * prefix[-1] + len(prefix)) % 17

    def draft(prefix: Sequence[int]) -> Candidates:
        return Candidates((target(prefix), 16), (-0.1, -3.0))

    steps = list(
        simulate(
            Models(target, draft, draft),
            [1],
            num_tokens=40,
            shape=WindowShape.chain(3),
            kappa=1,
            mode="draft",
            budget=9,
        )
    )
    assert {step.num_accepted for step in steps} == {3}
    assert {step.source for step in steps} == {"draft"}


@pytest.mark.parametrize("mode", ["union", "draft", "exit"])
def test_more_roots_never_hit_less(mode: RootMode) -> None:
    hits = []
    for budget in (1, 4, 16):
        total = 0
        for seed in range(12):
            shape = WindowShape.chain(3)
            steps = simulate(
                guesses(seed), [1, 2], num_tokens=60, shape=shape, kappa=4, mode=mode, budget=budget
            )
            total += sum(step.source is not None for step in steps)
        hits.append(total)
    assert hits == sorted(hits)
    assert hits[0] < hits[-1]
