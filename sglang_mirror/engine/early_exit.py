"""The early exit: what the target will probably say, read after layer l_e while the others still run."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

import torch

from sglang_mirror.engine.exit_head import ExitHead

# Called with token ids [N, kappa] and log-probabilities [N, kappa] of a batch's N nodes.
Publish = Callable[[torch.Tensor, torch.Tensor], None]


class EarlyExit(Protocol):
    """Publishes one verification's candidates after another; see `tap.Sink` for its other side.

    Of a target on several ranks each has one, armed for the same verifications; the first publishes.
    """

    def arm(self, children: torch.Tensor, publish: Publish) -> None:
        """Publish the next forward's candidates; `children` are each node's own, padded with -1, [N, c]."""

    def disarm(self, patience_s: float) -> tuple[float, float]:
        """The verification is over: what is not published by now, or in so many seconds, comes too late.

        Returns:
            for how many milliseconds the verification was held up by reading, and by publishing.
        """


class DirectExit:
    """Reads in the forward's own thread, for devices on which a layer has been computed when it returns.

    Armed for one forward at a time, so that prefill, warm-up and plain steps pass it by. In that thread the
    ranks can hand the first what they found: all do so between the same two layers.

    Args:
        head: reads.
        group: SGLang's group of the target's ranks.
    """

    def __init__(self, head: ExitHead, group: Any) -> None:
        self._head, self._group = head, group
        self._armed: tuple[torch.Tensor, Publish] | None = None
        self._spent_ms = (0.0, 0.0)

    def arm(self, children: torch.Tensor, publish: Publish) -> None:
        self._armed, self._spent_ms = (children, publish), (0.0, 0.0)

    def disarm(self, _patience_s: float) -> tuple[float, float]:
        self._armed = None
        return self._spent_ms

    def wants(self, _batch: Any) -> bool:
        return self._armed is not None

    def take(self, hidden: torch.Tensor, batch: Any) -> None:
        assert self._armed is not None
        children, publish = self._armed
        self._armed = None
        began = time.monotonic()
        found = self._group.gather(self._head.find(hidden, batch, children)[None], dst=0, dim=0)
        read = time.monotonic()
        if found is not None:  # the first rank
            publish(*self._head.merge(found))
        self._spent_ms = ((read - began) * 1000, (time.monotonic() - read) * 1000)

    def finish(self) -> None:
        """Nothing is left to do."""
