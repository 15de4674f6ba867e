"""One target that this draft serves: its settings and its requests."""

from __future__ import annotations

from dataclasses import dataclass, field

from sglang_mirror.draft.rollout import RolloutSettings
from sglang_mirror.draft.session import Session


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
    """

    identity: bytes
    name: str
    settings: RolloutSettings
    beat_s: float
    last_heard_s: float
    next_beat_s: float
    sessions: dict[int, Session] = field(default_factory=dict)
    busy_ms: float = 0.0
