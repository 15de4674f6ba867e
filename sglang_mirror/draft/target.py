"""One target that this draft serves: its settings and its requests."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field

from sglang_mirror.draft.growing import Growing
from sglang_mirror.draft.rollout import RolloutSettings
from sglang_mirror.draft.session import Session
from sglang_mirror.protocol.messages import Commit, Work


@dataclass(slots=True)
class Target:
    """What the draft knows of a target that said Hello.

    Attributes:
        identity: its address at our socket.
        name: for the log.
        settings: what its requests share.
        beat_s: how often it must hear from us.
        last_heard_s: when it last said anything.
        next_beat_s: when the next beat is due.
        sessions: its open requests.
        busy_ms: time spent on its rollouts so far; a shared forward's time is shared by rows.
        windows: windows and branches rolled out to their end.
        forwards: that these took, one after another.
        rate: tokens a second that it commits, as it says; 0 if it does not.
    """

    identity: bytes
    name: str
    settings: RolloutSettings
    beat_s: float
    last_heard_s: float
    next_beat_s: float
    sessions: dict[int, Session] = field(default_factory=dict)
    busy_ms: float = 0.0
    windows: int = 0
    forwards: int = 0
    rate: float = 0.0

    @property
    def work(self) -> Work:
        return Work(self.busy_ms, self.windows, self.forwards)

    def expect(self, commit: Commit) -> None:
        """How its requests are to be drafted for from now on."""
        self.rate = commit.rate
        settings = self.settings
        if (commit.least, commit.signals) != (settings.shape.least, settings.signals):
            shape = dataclasses.replace(settings.shape, least=commit.least)
            self.settings = dataclasses.replace(settings, shape=shape, signals=commit.signals)

    def count(self, finished: Iterable[Growing]) -> None:
        """These windows have come to their end."""
        for window in finished:
            self.windows += 1
            self.forwards += window.forwards
