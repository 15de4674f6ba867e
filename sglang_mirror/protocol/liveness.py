"""Is the draft there? A state machine without a clock: times are handed in, in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Peer(Enum):
    """What the target believes of its draft."""

    UNREACHED = "unreached"  # no answer to Hello yet: requests decode plainly
    READY = "ready"  # it answered and beats
    LOST = "lost"  # it fell silent: requests decode plainly until it answers a new Hello
    REFUSED = "refused"  # it answered that it cannot serve us; final


@dataclass(slots=True)
class Liveness:
    """Turns what is heard into a state.

    Attributes:
        timeout_s: silence after which a ready draft is lost.
        state: the belief as of the last call.
    """

    timeout_s: float
    state: Peer = Peer.UNREACHED
    last_heard_s: float = 0.0

    def ready(self, now_s: float) -> None:
        """It answered our Hello."""
        self.state = Peer.READY
        self.last_heard_s = now_s

    def refused(self) -> None:
        self.state = Peer.REFUSED

    def heard(self, now_s: float) -> None:
        """It said anything else. A lost draft stays lost until it answers a Hello: its requests are stale."""
        self.last_heard_s = now_s

    def lost(self) -> None:
        """Its process ended, or its socket took no more."""
        if self.state is Peer.READY:
            self.state = Peer.LOST

    def check(self, now_s: float) -> Peer:
        """The state now, after silence has been judged."""
        if self.state is Peer.READY and now_s - self.last_heard_s > self.timeout_s:
            self.state = Peer.LOST
        return self.state
