"""The tests of the law: a right sampler passes, wrong ones fail by far."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch

from sglang_mirror.bench.chi_square import Evidence, evidence, quantile_test, report, slice_test
from sglang_mirror.bench.exact import Sampling, law

VOCABULARY, CONTEXTS = 60, 20_000
SLICE = np.arange(12)
BOTH = Sampling("both", top_k=8, top_p=0.8)

Probs = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def logits() -> torch.Tensor:
    """A different context for each token."""
    return 2 * torch.randn(CONTEXTS, VOCABULARY, generator=torch.Generator().manual_seed(1))


def sampled(probs: Probs, seed: int = 5) -> npt.NDArray[np.int64]:
    thresholds = np.random.default_rng(seed).random(len(probs))
    return np.minimum((probs.cumsum(1) < thresholds[:, None]).sum(1), probs.shape[1] - 1)


def weighed(probs: Probs, tokens: npt.NDArray[np.int64]) -> Evidence:
    return evidence(probs, tokens, SLICE, np.random.default_rng(3))


@pytest.mark.parametrize(
    "sampling", [Sampling("t"), Sampling("k", top_k=8), Sampling("p", top_p=0.8), BOTH], ids=lambda s: s.name
)
def test_a_right_sampler_passes(logits: torch.Tensor, sampling: Sampling) -> None:
    probs = law(logits, sampling)
    found = weighed(probs, sampled(probs))
    assert slice_test(found).p_value > 0.01
    assert quantile_test(found).p_value > 0.01


@pytest.mark.parametrize(
    "wrong",
    [
        lambda logits: law(logits, Sampling("t", temperature=1.1)),
        lambda logits: law(logits, Sampling("k", top_k=8)),
        lambda logits: law(logits, BOTH, jointly=False),
        lambda logits: np.eye(VOCABULARY)[law(logits, BOTH).argmax(1)],
    ],
    ids=["too warm", "one filter", "filtered in turn", "greedy"],
)
def test_a_wrong_sampler_fails(logits: torch.Tensor, wrong: Callable[[torch.Tensor], Probs]) -> None:
    found = weighed(law(logits, BOTH), sampled(wrong(logits)))
    assert min(slice_test(found).p_value, quantile_test(found).p_value) < 1e-6


def test_a_sampler_that_favours_the_window_fails(logits: torch.Tensor) -> None:
    """Accepting one draft token in twenty-five too many shows."""
    probs = law(logits, Sampling("t"))
    tokens = sampled(probs)
    draft = np.argsort(-probs, axis=1)[:, 1]
    favoured = np.random.default_rng(4).random(CONTEXTS) < 0.04
    found = weighed(probs, np.where(favoured, draft, tokens))
    assert min(slice_test(found).p_value, quantile_test(found).p_value) < 1e-4


def test_p_values_are_uniform_when_the_law_holds(logits: torch.Tensor) -> None:
    """The covariance is exact: neither careless nor blind."""
    probs = law(logits[:2000], Sampling("t"))
    values = np.array([slice_test(weighed(probs, sampled(probs, seed))).p_value for seed in range(60)])
    assert 0.3 < values.mean() < 0.7
    assert (values < 0.1).mean() < 0.25


def test_filters_are_the_plain_samplers(logits: torch.Tensor) -> None:
    """Token by token, as a loop: fewer than top_k ahead, and at most top_p ahead."""
    probs = torch.softmax(logits[:50].double(), -1).numpy()
    found = law(logits[:50], BOTH)
    for row, filtered in zip(probs, found, strict=True):
        ahead = np.array([row[row > value].sum() for value in row])
        rank = np.array([(row > value).sum() for value in row])
        kept = np.where((rank < 8) & (ahead <= 0.8), row, 0)
        assert filtered == pytest.approx(kept / kept.sum(), abs=1e-12)


def test_report_has_both_tests(logits: torch.Tensor) -> None:
    probs = law(logits[:500], Sampling("t"))
    found = report(Evidence.joined([weighed(probs, sampled(probs))] * 2))
    assert found["num_tokens"] == 1000
    assert set(found) == {"num_tokens", "slice", "quantile"}
