"""The latency law: how long a step takes, from its parts (arXiv 2510.13161, eq. 10)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Parts:
    """Times of one step, in milliseconds.

    Attributes:
        before_exit: the target's layers 1 to l_e; with no exit, any share of them.
        exit: reading the exit and sending the signal.
        after_exit: the rest of the target's forward.
        rollout: from the signal until the branch of an outcome that hits is there; 0 where none waits for it.
        rendezvous: looking the outcome up and committing it.
        fresh: a rollout that nothing hides, from a committed outcome to a window.
        host: what the engine does between two verifications.
    """

    before_exit: float
    exit: float
    after_exit: float
    rollout: float
    rendezvous: float
    fresh: float
    host: float


def step_ms(parts: Parts, *, hit_rate: float) -> float:
    """A step's mean time.

    The equation as published has no misses: a miss pays for a fresh rollout besides.
    """
    overlapped = max(parts.after_exit, parts.rollout)
    missed = (1.0 - hit_rate) * parts.fresh
    return parts.before_exit + parts.exit + overlapped + parts.rendezvous + missed + parts.host
