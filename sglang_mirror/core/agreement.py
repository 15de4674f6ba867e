"""How often the target agrees with a guesser, measured while they work together.

A guesser gives its first choice a probability p. A greedy target agrees more often than that, for it says its
own first choice however unsure it is; a sampling one about as often. One exponent describes both: P(agree) is
p^a, with a near 1/3 at temperature 0 and near 1 at temperature 1 for a good draft. Each request finds its
own, by the likelihood of what it has seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

EXPONENTS = (0.06, 0.12, 0.25, 0.35, 0.5, 0.7, 1.0, 1.4)
# Nothing is certain: a probability of 0 or 1 would leave the outcomes behind it without any value.
LEAST, MOST = 1e-6, 0.995
# An exponent that has become so improbable is left out: to ask is most of what a rollout's arithmetic costs.
NEGLIGIBLE = 1e-4


@dataclass(slots=True)
class Agreement:
    """The exponent's distribution over EXPONENTS, all as likely before anything was seen.

    Attributes:
        log_likelihoods: of what was seen, one an exponent.
    """

    log_likelihoods: list[float] = field(default_factory=lambda: [0.0] * len(EXPONENTS))
    _shares: list[tuple[float, float]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._weigh()

    def probability(self, logprob: float) -> float:
        """P(the target agrees) where the guesser's own log-probability is `logprob`: mean over exponents."""
        mean = 0.0
        for exponent, share in self._shares:
            mean += share * math.exp(exponent * logprob)
        return min(max(mean, LEAST), MOST)

    def observe(self, logprob: float, agreed: bool) -> None:
        """The guesser's log-probability was `logprob`, and the target agreed or not."""
        for index, exponent in enumerate(EXPONENTS):
            power = min(max(math.exp(exponent * logprob), LEAST), MOST)
            self.log_likelihoods[index] += math.log(power if agreed else 1.0 - power)
        self._weigh()

    def _weigh(self) -> None:
        """Each exponent with its probability."""
        best = max(self.log_likelihoods)
        weights = [math.exp(each - best) for each in self.log_likelihoods]
        kept = [pair for pair in zip(EXPONENTS, weights, strict=True) if pair[1] >= NEGLIGIBLE]
        total = sum(weight for _, weight in kept)
        self._shares = [(exponent, weight / total) for exponent, weight in kept]
