"""The early exit: what the target will probably say, read after layer l_e while the others still run."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

import torch

from sglang_mirror_kernels.select import exit_topk

# Logits [N, V] of hidden states [N, width] of a batch.
Reader = Callable[[torch.Tensor, Any], torch.Tensor]
# Called with token ids [N, kappa] and log-probabilities [N, kappa] of a batch's N nodes.
Publish = Callable[[torch.Tensor, torch.Tensor], None]


class EarlyExit(Protocol):
    """Publishes one verification's candidates after another; see `tap.Sink` for its other side."""

    def arm(self, children: torch.Tensor, publish: Publish) -> None:
        """Publish the next forward's candidates; `children` are each node's own, padded with -1, [N, c]."""

    def disarm(self, patience_s: float) -> tuple[float, float]:
        """The verification is over: what is not published by now, or in so many seconds, comes too late.

        Returns:
            for how many milliseconds the verification was held up by reading, and by publishing.
        """


class DirectExit:
    """Reads in the forward's own thread, for devices on which a layer has been computed when it returns.

    Armed for one forward at a time, so that prefill, warm-up and plain steps pass it by.

    Args:
        read: the target's norm and head.
        kappa: candidates a node.
    """

    def __init__(self, read: Reader, kappa: int) -> None:
        self._read, self._kappa = read, kappa
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
        found = exit_topk(self._read(hidden, batch), children, self._kappa)
        read = time.monotonic()
        publish(*found)
        self._spent_ms = ((read - began) * 1000, (time.monotonic() - read) * 1000)

    def finish(self) -> None:
        """Nothing is left to do."""
