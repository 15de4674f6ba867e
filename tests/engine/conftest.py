"""A line between a real client and a scripted peer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sglang_mirror.engine.draft_client import DraftClient
from sglang_mirror.engine.metrics import Counters
from sglang_mirror.engine.request import Request
from sglang_mirror.protocol.channel import DraftChannel, TargetChannel
from sglang_mirror.protocol.messages import Commit, Open
from tests.engine.line import HELLO, PROMPT, VOCABULARY, Line, ScriptedPeer, window


@pytest.fixture
def make_line(tmp_path: Path) -> Iterator[Callable[[float], Line]]:
    channels: list[TargetChannel | DraftChannel] = []

    def make(lost_after_s: float) -> Line:
        bound = DraftChannel(f"ipc://{tmp_path}/draft")
        connected = TargetChannel(bound.endpoint)
        channels.extend((connected, bound))
        client = DraftClient(
            connected, HELLO, vocab_size=VOCABULARY, lost_after_s=lost_after_s, counters=Counters()
        )
        return Line(client, ScriptedPeer(bound))

    yield make
    for channel in channels:
        channel.close()


@pytest.fixture
def line(make_line: Callable[[float], Line]) -> Line:
    """A line whose ends have met."""
    found = make_line(60.0)
    found.meet()
    return found


@pytest.fixture
def request_(line: Line) -> Request:
    """A request with one token after its prompt and the window (8; 1, 2)."""
    line.client.open("a", PROMPT)
    line.peer.hear(Open)
    request = line.client.committed("a", [*PROMPT, 8])
    line.peer.hear(Commit)
    line.peer.say(window(request.stamp, 1, 2))
    line.client.collect([request], 5000)
    return request
