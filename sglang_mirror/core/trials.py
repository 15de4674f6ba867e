"""When to try what is not thought best."""

from __future__ import annotations


class Trials:
    """Soon at first, more and more seldom while nothing changes.

    Args:
        first: decisions alike before the first trial.
        longest: before any.
        longer: how much longer each pause is than the one before.
    """

    def __init__(self, first: int, longest: int, longer: int = 2) -> None:
        self._first, self._longest, self._longer = first, longest, longer
        self.restart()

    def restart(self) -> None:
        """Another way is thought best from now on."""
        self._alike, self._pause = 0, self._first

    def due(self) -> bool:
        """One more decision for the same way: whether it had better be a trial of the other."""
        self._alike += 1
        if self._alike <= self._pause:
            return False
        self._alike, self._pause = 0, min(self._longer * self._pause, self._longest)
        return True
