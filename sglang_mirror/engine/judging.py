"""What the settings leave to be measured, and how a step's requests fared."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sglang_mirror.config import MirrorConfig
from sglang_mirror.core.branches import Branch
from sglang_mirror.core.roots import phase_budgets
from sglang_mirror.core.speculation import Speculation
from sglang_mirror.core.waiting import Fared
from sglang_mirror.core.window import Window


def speculation_of(config: MirrorConfig, *, resizable: bool) -> Speculation:
    """As the settings have it; a trace shows every step's window, and all of it."""
    traced = config.lockstep or config.trace is not None
    may_rest = not traced and config.speculate != "always"
    return Speculation(
        may_rest=may_rest,
        may_end=not traced and config.window_end != "full",
        resizable=resizable,
        least_misses=_least_misses(config, may_rest=may_rest),
        may_mute=may_rest and config.roots == "auto",
    )


def _least_misses(config: MirrorConfig, *, may_rest: bool) -> float | None:
    """Without branches a request that is not waited for never has a window, so there all are."""
    if config.miss == "plain":
        return math.inf
    _, num_branches = phase_budgets(config.root_mode, config.root_budget)
    return None if may_rest and config.miss == "auto" and num_branches else 0.0


def fared(
    awaited: Sequence[bool | None],
    windows: Sequence[Window | None],
    committed: Sequence[Sequence[int]],
    hits: Sequence[Branch | None],
) -> list[Fared]:
    """How a step's requests fared, those whose window was or was not awaited: None tells nothing."""
    return [
        Fared(len(window) - 1 if window else None, waited_for, len(tokens), hit is not None)
        for waited_for, window, tokens, hit in zip(awaited, windows, committed, hits, strict=True)
        if waited_for is not None
    ]
