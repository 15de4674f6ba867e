"""Do sampled tokens follow the probabilities that they should? Two tests, both with known power.

Each token has its own context and so its own probabilities. Given the tokens before it, the indicator of a
token minus its probability has mean 0, so sums over contexts are martingales: they are asymptotically normal
with the summed covariances, however the contexts came about. N tokens, K tokens of the slice, V vocabulary.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# The probability that any of a setting's tests is failed by a sampler that is right.
FALSE_ALARM = 0.01
BINS = 20
# Tokens of the slice that are expected more seldom than this are left out: normality would not hold.
MIN_EXPECTED = 10.0


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is kept of each sampled token.

    Attributes:
        in_slice: which token of the slice it is, -1 for any other, [N].
        slice_probs: probabilities of the slice's tokens in its context, [N, K].
        quantile: its randomised probability-integral transform, uniform if the law holds, [N].
    """

    in_slice: Ints
    slice_probs: Floats
    quantile: Floats

    def __len__(self) -> int:
        return len(self.quantile)

    def of(self, rows: npt.NDArray[np.bool_]) -> Evidence:
        """The part that belongs to some of the tokens."""
        return Evidence(self.in_slice[rows], self.slice_probs[rows], self.quantile[rows])

    @classmethod
    def joined(cls, parts: list[Evidence]) -> Evidence:
        return cls(
            np.concatenate([part.in_slice for part in parts]),
            np.concatenate([part.slice_probs for part in parts]),
            np.concatenate([part.quantile for part in parts]),
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """A chi-square statistic and the probability of one as large if the law holds."""

    statistic: float
    degrees: int
    p_value: float


def evidence(probs: Floats, tokens: Ints, slice_tokens: Ints, rng: np.random.Generator) -> Evidence:
    """Evidence from `tokens` [N], each sampled under its row of `probs` [N, V], which sum to one."""
    rows = np.arange(len(tokens))
    own = probs[rows, tokens]
    # Tokens in the order of their probability: an error in where a filter cuts shows at one end.
    ahead = (probs > own[:, None]) | ((probs == own[:, None]) & (np.arange(probs.shape[1]) < tokens[:, None]))
    quantile = (probs * ahead).sum(1) + own * rng.random(len(tokens))
    match = tokens[:, None] == slice_tokens[None]
    in_slice = np.where(match.any(1), match.argmax(1), -1)
    return Evidence(in_slice, probs[:, slice_tokens], quantile)


def slice_test(found: Evidence) -> Verdict:
    """Observed against expected frequencies of the slice's tokens, with their exact covariance."""
    expected = found.slice_probs.sum(0)  # [K]
    kept = expected >= MIN_EXPECTED
    if not kept.any():
        return Verdict(0.0, 0, 1.0)
    probs = found.slice_probs[:, kept]
    observed = np.bincount(found.in_slice[found.in_slice >= 0], minlength=len(kept))[kept]
    excess = observed - expected[kept]
    covariance = np.diag(expected[kept]) - probs.T @ probs
    statistic = float(excess @ np.linalg.pinv(covariance, hermitian=True) @ excess)
    degrees = int(np.linalg.matrix_rank(covariance, hermitian=True))
    return Verdict(statistic, degrees, float(stats.chi2.sf(statistic, degrees)))


def quantile_test(found: Evidence) -> Verdict:
    """Uniformity of the transforms, in bins of equal width: uses every context and the whole vocabulary."""
    counts, _ = np.histogram(found.quantile, bins=BINS, range=(0.0, 1.0))
    result = stats.chisquare(counts)
    return Verdict(float(result.statistic), BINS - 1, float(result.pvalue))


def report(found: Evidence) -> dict[str, Any]:
    """Both tests of one group of tokens."""
    return {
        "num_tokens": len(found),
        "slice": asdict(slice_test(found)),
        "quantile": asdict(quantile_test(found)),
    }
