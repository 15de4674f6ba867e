"""Where a GPU leaves the early exit's candidates, and the thread that takes them out.

The device writes in the order of its stream: the step's number at the head, the letter, the number again at
the tail. So a tail with the awaited number means that the letter is whole, and a head that still has it after
the letter was copied means that no other has begun to overwrite it.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import sys
import threading
import time
from collections.abc import Callable

import torch

logger = logging.getLogger(__name__)

# Between two looks. Shorter ones take the interpreter from the scheduler's thread, longer delay the draft.
LOOK_S = 20e-6
# Letters take about as long as the last one did; for this share of it nobody looks.
SLEPT_SHARE = 0.7
_PR_SET_TIMERSLACK = 29

# Called with a letter's rows, int32 [rows, width], a copy.
Take = Callable[[torch.Tensor], None]


class Mailbox:
    """One letter's place, and its reader.

    Args:
        rows: the most that a letter has.
        width: int32 numbers of a row.
        pinned: whether a device writes into it; False for tests.

    Attributes:
        head: int32 [1]
        letter: int32 [rows, width]
        tail: int32 [1]
        torn: letters that were being overwritten when they were taken out.
    """

    def __init__(self, rows: int, width: int, *, pinned: bool) -> None:
        memory = torch.zeros(2 + rows * width, dtype=torch.int32, pin_memory=pinned)
        self.head, self.letter, self.tail = memory[:1], memory[1:-1].view(rows, width), memory[-1:]
        self.torn = 0
        self._numbers = memory.numpy()  # reading a number through it takes a tenth of a microsecond
        self._awaited: tuple[int, int, Take] | None = None
        self._usual_s = 0.0
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="mirror-mailbox", daemon=True)
        self._thread.start()

    def expect(self, step: int, rows: int, take: Take) -> None:
        """A letter of so many rows will come with this number: hand it to `take`, in our own thread."""
        with self._changed:
            self._awaited = (step, rows, take)
            self._changed.notify()

    def forget(self, patience_s: float = 0.0) -> None:
        """What has not come by now, or in so many seconds, is not wanted: `take` will not be called."""
        with self._changed:
            self._changed.wait_for(lambda: self._awaited is None, patience_s)
            self._awaited = None

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closed, self._awaited = True, None
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        if sys.platform == "linux":  # by default sleeps last 50 microseconds longer than asked for
            with contextlib.suppress(OSError):
                ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
        while not self._closed:
            with self._changed:
                while self._awaited is None and not self._closed:
                    self._changed.wait()
                awaited = self._awaited
            if awaited is not None:
                self._watch(awaited)

    def _watch(self, awaited: tuple[int, int, Take]) -> None:
        step = awaited[0]
        began = time.monotonic()
        time.sleep(SLEPT_SHARE * self._usual_s)
        while self._awaited is awaited:
            if self._numbers[-1] == step:
                self._usual_s = time.monotonic() - began
                self._deliver(awaited)
                return
            time.sleep(LOOK_S)
        # Nobody waits any more. The next letter may come much sooner: look early.
        self._usual_s /= 2

    def _deliver(self, awaited: tuple[int, int, Take]) -> None:
        step, rows, take = awaited
        copy = self.letter[:rows].clone()
        with self._changed:  # held while it is delivered, so that `forget` can promise what it does
            if self._awaited is not awaited:
                return
            self._awaited = None
            self._changed.notify_all()
            if self._numbers[0] != step:
                self.torn += 1
                return
            try:
                take(copy)
            except Exception:
                logger.exception("mirror: a signal was lost")
