"""Whether to speculate: by measured tokens a second, for each size of batch.

A verification costs more than a plain step, and how much of it pays depends on the text, the temperature, the
batch and the machine. So both ways are timed. The one in use is left for a short trial of the other now and
then, and more and more seldom as long as trials confirm it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

FIRST_TRIAL, LONGEST_PAUSE = 64, 4096  # steps between trials
TRIAL = 12  # steps
SETTLING = 2  # of a trial, not counted: a draft that was left alone has to catch up
BETTER = 1.03  # a way must be so much faster to replace the other
KEPT = 0.95  # of what earlier steps count, with each new one


@dataclass(slots=True)
class Rate:
    """Tokens a second, the latest steps counting most."""

    tokens: float = 0.0
    seconds: float = 0.0

    def add(self, tokens: int, seconds: float) -> None:
        self.tokens = KEPT * self.tokens + tokens
        self.seconds = KEPT * self.seconds + seconds

    @property
    def value(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0


@dataclass(slots=True)
class _Size:
    """What is known of one size of batch."""

    speculating: bool = True
    usual: Rate = field(default_factory=Rate)
    trial: Rate = field(default_factory=Rate)
    since: int = 0  # steps since the last trial
    pause: int = FIRST_TRIAL
    left: int = 0  # steps of the trial that runs

    def learn(self, tokens: int, seconds: float) -> None:
        if not self.left:
            self.usual.add(tokens, seconds)
            self.since += 1
            return
        self.left -= 1
        if self.left < TRIAL - SETTLING:
            self.trial.add(tokens, seconds)
        if not self.left:
            self._decide()

    def _decide(self) -> None:
        if self.trial.value > BETTER * self.usual.value:
            self.speculating, self.usual, self.pause = not self.speculating, self.trial, FIRST_TRIAL
        else:
            self.pause = min(2 * self.pause, LONGEST_PAUSE)
        self.trial, self.since = Rate(), 0


class Policy:
    """Chooses step by step. Batches of alike sizes, to the next power of two, are judged together."""

    def __init__(self) -> None:
        self._sizes: dict[int, _Size] = {}

    def choose(self, batch: int) -> bool:
        """Whether to speculate in the next step of `batch` requests."""
        size = self._of(batch)
        if not size.left and size.since >= size.pause:
            size.left = TRIAL
        return size.speculating != (size.left > 0)

    def learn(self, batch: int, *, speculated: bool, tokens: int, seconds: float) -> None:
        """What a step brought.

        Args:
            batch: its requests.
            speculated: whether it had windows; a step that was to and had none tells nothing.
            tokens: committed, of all requests.
            seconds: until the next step began.
        """
        if speculated == self.choose(batch):
            self._of(batch).learn(tokens, seconds)

    def report(self) -> dict[str, bool]:
        """Whether batches up to each size that was met are speculated for."""
        return {str(size): found.speculating for size, found in sorted(self._sizes.items())}

    def _of(self, batch: int) -> _Size:
        return self._sizes.setdefault(1 << (batch - 1).bit_length(), _Size())
