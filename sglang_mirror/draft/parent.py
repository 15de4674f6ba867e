"""Dying with the parent: a draft whose server was killed must not hold its accelerator for ever."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from types import FrameType

_PR_SET_PDEATHSIG = 1


class ParentWatch:
    """Watches the process that started this one.

    The kernel tells us when the *thread* that started us ends, so its signal is a reason to look, no more.

    Args:
        pid: the process never to outlive; 0 watches none.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        # A given pid may also be an ancestor further up, which can only be looked for.
        self._direct = pid == os.getppid()
        if self._direct and sys.platform == "linux":
            signal.signal(signal.SIGUSR2, self._look)
            ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGUSR2, 0, 0, 0)

    def _look(self, _signal: int, _frame: FrameType | None) -> None:
        if self.gone():
            raise SystemExit(0)

    def gone(self) -> bool:
        """Whether it has ended."""
        if not self._pid:
            return False
        if self._direct:
            return os.getppid() != self._pid
        try:
            os.kill(self._pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False
