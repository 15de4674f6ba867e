"""Dying with the parent: a draft whose server was killed must not hold its accelerator for ever."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


class ParentWatch:
    """Watches the process that started this one.

    Args:
        pid: the process to outlive never; 0 watches none.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        # The kernel ties us to our real parent; a given pid may be an ancestor further up.
        self._direct = pid == os.getppid()
        if self._direct and sys.platform == "linux":
            ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)

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
