"""Whether to speculate: by measured tokens a second, for each kind of batch.

A verification costs more than a plain step, and how much of it pays depends on the text, the temperature, the
batch and the machine. So both ways are timed. The one in use is left for a short trial of the other now and
then, more and more seldom as long as trials confirm it, and soon when it falls behind what the other brought
when it was last tried.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from sglang_mirror.core.decaying import Ratio

# Steps between trials: the first come early, for until then nobody knows.
FIRST_PAUSE, LONGEST_PAUSE, LONGER = 16, 1024, 4
# Of a trial that speculates. A request's step with a window brings one token to a whole window, so it takes
# some to know; a larger batch has them in fewer steps.
OUTCOMES = 10
# Steps of any trial at least: how long they take varies as well. A plain one's tokens do not.
FEWEST_TRIED = 4
# Of a trial's steps not counted besides, nor of the first ones of all: a first call may compile something.
SETTLING = {False: 1, True: 2}
# A draft that was left alone has to catch up. Until most requests of the batch have windows again steps tell
# nothing of speculation, so many of them at most: a draft that takes longer is no help either. A step that
# waited in vain counts as many, for it is dear.
CATCHING_UP, IN_VAIN = 64, 32
BETTER = 1.03  # a way must be so much faster to replace the other
KEPT = 0.95  # of what earlier steps count, with each new one


def token_rate() -> Ratio:
    """Tokens a second, of which nothing is known yet."""
    return Ratio(KEPT)


def trial(batch: int, *, speculating: bool) -> int:
    """Steps of a trial, those that do not count included."""
    steps = math.ceil(OUTCOMES / batch) if speculating else 0
    return SETTLING[speculating] + max(FEWEST_TRIED, steps)


@dataclass(slots=True)
class _Choice:
    """What is known of one kind of batch.

    Attributes:
        batch: its largest one's requests.
        speculating: whether to, outside of trials.
    """

    batch: int
    speculating: bool = True
    usual: Ratio = field(default_factory=token_rate)
    other: Ratio = field(default_factory=token_rate)  # as it was when last tried
    since: int = 0  # steps since the last trial
    pause: int = FIRST_PAUSE
    left: int = 0  # steps of the trial that runs
    unsettled: int = field(init=False)  # steps that do not count yet

    def __post_init__(self) -> None:
        self.unsettled = SETTLING[self.speculating]

    def begin_trial_if_due(self) -> None:
        behind = self.other.value() > BETTER * self.usual.value()
        if not self.left and self.since >= (FIRST_PAUSE if behind else self.pause):
            self.left, self.other = trial(self.batch, speculating=not self.speculating), token_rate()

    @property
    def speculates_next(self) -> bool:
        return self.speculating != (self.left > 0)

    def learn(self, tokens: int, seconds: float) -> None:
        if not self.left:
            self.since += 1
            if self.unsettled:
                self.unsettled -= 1
            else:
                self.usual.add(tokens, seconds)
            return
        tried = self.speculates_next
        self.left -= 1
        if self.left < trial(self.batch, speculating=tried) - SETTLING[tried]:
            self.other.add(tokens, seconds)
        if not self.left:
            self._decide()

    def _decide(self) -> None:
        self.since, self.pause = 0, min(LONGER * self.pause, LONGEST_PAUSE)
        if self.other.value() > BETTER * self.usual.value():
            self.speculating, self.pause = not self.speculating, LONGER * FIRST_PAUSE
            self.usual, self.other = self.other, self.usual


class Policy:
    """Chooses step by step. Batches of alike sizes, to the next power of two, are judged together.

    Greedy and sampled ones are judged apart: how often the draft is right depends on nothing so much.
    """

    def __init__(self) -> None:
        self._choices: dict[tuple[bool, int], _Choice] = {}
        self._catching_up = 0  # steps that the draft may still take to

    def choose(self, batch: int, *, sampled: bool) -> bool:
        """Whether to speculate in the next step of `batch` requests, `sampled` if any of them is."""
        choice = self._of(batch, sampled)
        choice.begin_trial_if_due()
        return choice.speculates_next

    def learn(
        self,
        batch: int,
        *,
        sampled: bool,
        speculated: bool,
        drafted: bool,
        in_vain: bool,
        tokens: int,
        seconds: float,
    ) -> None:
        """What a step brought.

        Args:
            batch: its requests.
            sampled: whether any of them draws its tokens.
            speculated: whether the draft was asked; without one, a step that was to speculate tells nothing.
            drafted: whether most requests had windows, or have now.
            in_vain: whether it was waited for windows that did not come.
            tokens: committed, of all requests.
            seconds: until the next step began.
        """
        choice = self._of(batch, sampled)
        if not choice.speculates_next:
            self._catching_up = CATCHING_UP
        elif speculated:
            left = self._catching_up - (IN_VAIN if in_vain else 1)
            self._catching_up = 0 if drafted else max(left, 0)
        if speculated == choice.speculates_next and not (speculated and self._catching_up):
            choice.learn(tokens, seconds)

    def report(self) -> dict[str, dict[str, bool]]:
        """Whether batches up to each size that was met are speculated for, greedy and sampled ones."""
        found: dict[str, dict[str, bool]] = {"greedy": {}, "sampled": {}}
        for (sampled, size), choice in sorted(self._choices.items()):
            found["sampled" if sampled else "greedy"][str(size)] = choice.speculating
        return found

    def _of(self, batch: int, sampled: bool) -> _Choice:
        """What is known of such batches. What does not pay for fewer requests is not begun with for more."""
        size = 1 << (batch - 1).bit_length()
        if (sampled, size) not in self._choices:
            given_up = any(
                not choice.speculating
                for (kind, known), choice in self._choices.items()
                if kind == sampled and known < size
            )
            self._choices[sampled, size] = _Choice(size, speculating=not given_up)
        return self._choices[sampled, size]
