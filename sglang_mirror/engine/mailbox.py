"""Where GPUs leave the early exit's candidates, and the thread that takes them out.

Each rank's device has a place of its own, and writes there in the order of its stream: the step's number at
the head, the letter, the number again at the tail. So a tail with the awaited number means that the letter is
whole, and a head that still has it after the letter was copied means that no other has begun to overwrite it.
The ranks' letters of a step are taken out together, when the last of them is whole.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import sys
import threading
import time
from collections.abc import Callable, Sequence

import torch

logger = logging.getLogger(__name__)

# Between two looks. Shorter ones take the interpreter from the scheduler's thread, longer delay the draft.
LOOK_S = 20e-6
# Letters take about as long as the last one did; for this share of it nobody looks.
SLEPT_SHARE = 0.7
# What is usual grows no faster from one letter to the next: what holds a device up once is not usual.
GROWTH, LEAST_GROWTH_S = 2.0, 0.001
# Python gives a thread that waits the interpreter after so long. Under SGLang's overlap schedule the
# scheduler's thread runs Python just when a letter comes, and by default that would be 5 ms late.
SWITCH_S = 500e-6
_PR_SET_TIMERSLACK = 29

# Called with the rows of every place's letter, int32 [places, rows, width], a copy.
Take = Callable[[torch.Tensor], None]


class Place:
    """Where one device leaves its letter.

    Args:
        memory: int32 [`Place.length`], zeros; the device writes into it, the reader may be another process.
        width: int32 numbers of a row.

    Attributes:
        head: int32 [1]
        letter: int32 [rows, width]
        tail: int32 [1]
        numbers: all of it; reading a number through it takes a tenth of a microsecond.
    """

    def __init__(self, memory: torch.Tensor, width: int) -> None:
        self.head, self.letter, self.tail = memory[:1], memory[1:-1].view(-1, width), memory[-1:]
        self.numbers = memory.numpy()

    @staticmethod
    def length(rows: int, width: int) -> int:
        """Numbers that a place for a letter of at most so many rows has."""
        return 2 + rows * width


class Mailbox:
    """The ranks' places, and the reader of all of them. The whole process's threads take turns sooner for it.

    Args:
        places: one a rank, of one size.

    Attributes:
        places: these.
        torn: steps of which a letter was being overwritten when it was taken out.
    """

    def __init__(self, places: Sequence[Place]) -> None:
        self.torn = 0
        self.places = tuple(places)
        self._awaited: tuple[int, int, Take] | None = None
        self._usual_s = 0.0
        self._changed = threading.Condition()
        self._closed = False
        self._usual_switch_s = sys.getswitchinterval()
        sys.setswitchinterval(min(SWITCH_S, self._usual_switch_s))
        self._thread = threading.Thread(target=self._run, name="mirror-mailbox", daemon=True)
        self._thread.start()

    def expect(self, step: int, rows: int, take: Take) -> None:
        """In every place a letter of so many rows will come with this number: hand them to `take`.

        It is called in our own thread.
        """
        with self._changed:
            self._awaited = (step, rows, take)
            self._changed.notify()

    def forget(self, patience_s: float = 0.0) -> None:
        """What has not come by now, or in so many seconds, is not wanted: `take` will not be called."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._awaited is None, patience_s):
                self._awaited = None
                self._changed.notify()

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closed, self._awaited = True, None
            self._changed.notify()
        self._thread.join()
        sys.setswitchinterval(self._usual_switch_s)

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
        with self._changed:
            self._changed.wait_for(lambda: self._awaited is not awaited, SLEPT_SHARE * self._usual_s)
        while self._awaited is awaited:
            if all(place.numbers[-1] == step for place in self.places):
                longest = max(GROWTH * self._usual_s, self._usual_s + LEAST_GROWTH_S)
                self._usual_s = min(time.monotonic() - began, longest)
                self._deliver(awaited)
                return
            time.sleep(LOOK_S)
        # Nobody waits any more. The next letter may come much sooner: look early.
        self._usual_s /= 2

    def _deliver(self, awaited: tuple[int, int, Take]) -> None:
        step, rows, take = awaited
        copy = torch.stack([place.letter[:rows] for place in self.places])
        with self._changed:  # held while it is delivered, so that `forget` can promise what it does
            if self._awaited is not awaited:
                return
            self._awaited = None
            self._changed.notify_all()
            if any(place.numbers[0] != step for place in self.places):
                self.torn += 1
                return
            try:
                take(copy)
            except Exception:
                logger.exception("mirror: a signal was lost")
