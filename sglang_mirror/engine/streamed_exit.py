"""The early exit on a GPU: read on a side stream, also inside a captured graph, and left in a mailbox.

The tap forks the side stream at layer l_e; norm, head and top-kappa run there beside the layers behind it,
and their copies to the host; the stream is joined after the last layer, before a capture ends. What changes
from step to step, its number and each node's children, lies in device memory that is filled before the
forward, so a replayed graph publishes as an eager forward does.

Of a target on several GPUs each rank reads its own part of the head, and its device leaves what it found in
the rank's own place; the first rank's host puts it together. So nothing on the side stream waits for another
rank: a collective there would run beside the layers' own, in an order of its own.
"""

from __future__ import annotations

from typing import Any

import torch

from sglang_mirror.engine.early_exit import Publish
from sglang_mirror.engine.exit_head import ExitHead
from sglang_mirror.engine.mailbox import Mailbox, Place

# Steps are numbered in int32, from 1: fresh memory has 0.
LAST_STEP = 2**31 - 2


class StreamedExit:
    """See `early_exit.EarlyExit` and `tap.Sink`.

    Args:
        head: reads.
        topk: children a node, at most.
        device: this rank's.
        letters: where the ranks' devices leave what they found, int32 [ranks, `Place.length`]; see
            `shared_memory`.
        rank: this one's row of it; the first one publishes.

    Attributes:
        mailbox: where the candidates arrive; None but on the first rank.
    """

    def __init__(
        self,
        head: ExitHead,
        *,
        topk: int,
        device: torch.device,
        letters: torch.Tensor,
        rank: int = 0,
    ) -> None:
        self._head, self._topk = head, topk
        places = [Place(memory, head.width) for memory in letters]
        self._place = places[rank]
        self.mailbox = Mailbox(places) if rank == 0 else None
        rows = len(self._place.letter)
        # The number of the step, then the children of each node.
        self._staged = torch.zeros(1 + rows * topk, dtype=torch.int32, pin_memory=True)
        self._inputs = torch.full_like(self._staged, -1, device=device)
        self._step = 0
        self._side = torch.cuda.Stream(device)
        self._held: tuple[torch.Tensor, ...] = ()

    def arm(self, children: torch.Tensor, publish: Publish) -> None:
        """As `EarlyExit.arm`; the first rank's mailbox publishes, in its thread.

        All ranks count alike: they are armed for the same windows, which the first has told the others.
        """
        rows = len(children)
        if rows > len(self._place.letter):
            return
        self._step = self._step % LAST_STEP + 1
        self._staged[0] = self._step
        count = 1 + rows * self._topk
        self._staged[1:count] = children.flatten()
        self._inputs[:count].copy_(self._staged[:count], non_blocking=True)
        if self.mailbox is not None:
            self.mailbox.expect(self._step, rows, lambda letters: publish(*self._head.merge(letters)))

    def disarm(self, patience_s: float) -> tuple[float, float]:
        if self.mailbox is not None:
            self.mailbox.forget(patience_s)
        return 0.0, 0.0  # the host has waited for nothing

    def wants(self, batch: Any) -> bool:
        """Every verification's of more than the root: a graph has what it had when it was captured."""
        return bool(batch.forward_mode.is_target_verify()) and batch.spec_info.draft_token_num > 1

    def take(self, hidden: torch.Tensor, batch: Any) -> None:
        """Fork: read and publish beside the layers that follow."""
        rows, place = len(hidden), self._place
        if not 0 < rows <= len(place.letter):
            return
        children = self._inputs[1 : 1 + rows * self._topk].view(rows, self._topk)
        step = self._inputs[:1]
        self._side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._side):
            letter = self._head.find(hidden, batch, children)
            place.head.copy_(step, non_blocking=True)
            place.letter[:rows].copy_(letter, non_blocking=True)
            place.tail.copy_(step, non_blocking=True)
        # Made on one stream, read on the other: to be kept until both have met again.
        self._held = (hidden, letter)

    def finish(self) -> None:
        """Join: what follows the last layer waits for the side stream, and so does a capture's end."""
        if self._held:
            torch.cuda.current_stream().wait_stream(self._side)
            self._held = ()
