"""The early exit on a GPU: read on a side stream, also inside a captured graph, and left in a mailbox.

The tap forks the side stream at layer l_e; norm, head and top-kappa run there beside the layers behind it,
and their copies to the host; the stream is joined after the last layer, before a capture ends. What changes
from step to step, its number and each node's children, lies in device memory that is filled before the
forward, so a replayed graph publishes as an eager forward does.
"""

from __future__ import annotations

from typing import Any

import torch

from sglang_mirror.engine.early_exit import Publish, Reader
from sglang_mirror.engine.mailbox import Mailbox
from sglang_mirror_kernels.select import exit_topk

# Steps are numbered in int32, from 1: fresh memory has 0.
LAST_STEP = 2**31 - 2


class StreamedExit:
    """See `early_exit.EarlyExit` and `tap.Sink`.

    Args:
        read: the target's norm and head.
        kappa: candidates a node.
        topk: children a node, at most.
        rows: nodes of the largest batch that has a signal.
        device: the target's.

    Attributes:
        mailbox: where the candidates arrive.
    """

    def __init__(self, read: Reader, kappa: int, *, topk: int, rows: int, device: torch.device) -> None:
        self._read, self._kappa, self._topk = read, kappa, topk
        self.mailbox = Mailbox(rows, 2 * kappa, pinned=True)
        # The number of the step, then the children of each node.
        self._staged = torch.zeros(1 + rows * topk, dtype=torch.int32, pin_memory=True)
        self._inputs = torch.full_like(self._staged, -1, device=device)
        self._step = 0
        self._side = torch.cuda.Stream(device)
        self._held: tuple[torch.Tensor, ...] = ()

    def arm(self, children: torch.Tensor, publish: Publish) -> None:
        """As `EarlyExit.arm`; the mailbox's thread publishes."""
        rows, kappa = len(children), self._kappa
        if rows > len(self.mailbox.letter):
            return
        self._step = self._step % LAST_STEP + 1
        self._staged[0] = self._step
        count = 1 + rows * self._topk
        self._staged[1:count] = children.flatten()
        self._inputs[:count].copy_(self._staged[:count], non_blocking=True)
        self.mailbox.expect(
            self._step,
            rows,
            lambda letter: publish(letter[:, :kappa], letter[:, kappa:].contiguous().view(torch.float32)),
        )

    def disarm(self, patience_s: float) -> tuple[float, float]:
        self.mailbox.forget(patience_s)
        return 0.0, 0.0  # the host has waited for nothing

    def wants(self, batch: Any) -> bool:
        """Every verification's: a graph has what it had when it was captured."""
        return bool(batch.forward_mode.is_target_verify())

    def take(self, hidden: torch.Tensor, batch: Any) -> None:
        """Fork: read and publish beside the layers that follow."""
        rows = len(hidden)
        if not 0 < rows <= len(self.mailbox.letter):
            return
        children = self._inputs[1 : 1 + rows * self._topk].view(rows, self._topk)
        step = self._inputs[:1]
        self._side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._side):
            logits = self._read(hidden, batch)
            tokens, logprobs = exit_topk(logits, children, self._kappa)
            letter = torch.cat((tokens.int(), logprobs.view(torch.int32)), 1)
            mailbox = self.mailbox
            mailbox.head.copy_(step, non_blocking=True)
            mailbox.letter[:rows].copy_(letter, non_blocking=True)
            mailbox.tail.copy_(step, non_blocking=True)
        # Made on one stream, read on the other: to be kept until both have met again.
        self._held = (hidden, logits, tokens, logprobs, letter)

    def finish(self) -> None:
        """Join: what follows the last layer waits for the side stream, and so does a capture's end."""
        if self._held:
            torch.cuda.current_stream().wait_stream(self._side)
            self._held = ()
