"""What recent steps have shown: a ratio of two sums in which the latest counts most."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Ratio:
    """One sum over another, such as tokens a second or hits an outcome.

    Attributes:
        kept: of what earlier steps count, with each new one.
        part, whole: the sums.
    """

    kept: float
    part: float = 0.0
    whole: float = 0.0

    def add(self, part: float, whole: float) -> None:
        """What a step has shown; one without a `whole` shows nothing."""
        if whole:
            self.part = self.kept * self.part + part
            self.whole = self.kept * self.whole + whole

    def value(self, unknown: float = 0.0) -> float:
        """The ratio, `unknown` before there is one."""
        return self.part / self.whole if self.whole else unknown
