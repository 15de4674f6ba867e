"""An idle draft that spins: it looks for messages without sleeping, for a while after the last one."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from sglang_mirror.draft.backends.scripted import ScriptedBackend, hash_script
from sglang_mirror.draft.parent import ParentWatch
from sglang_mirror.draft.scheduler import Limits
from sglang_mirror.draft.server import DraftServer
from sglang_mirror.draft.trace import Trace
from sglang_mirror.protocol.channel import DraftChannel, TargetChannel
from sglang_mirror.protocol.messages import FromTarget
from tests.draft.draft_playing import VOCAB, VOCABULARY, hello


class Watched(DraftChannel):
    """A channel that ends its owner when that first waits after a message, and remembers how it came to it.

    Attributes:
        looks: receives that would not wait, since the message.
        heard_s: when the message came.
        slept_s: when its owner first was ready to wait again.
    """

    server: DraftServer
    heard_s = slept_s = 0.0
    looks = 0

    def receive(self, timeout_ms: int = 0) -> tuple[bytes, FromTarget] | None:
        now_s = time.monotonic()
        if self.heard_s and timeout_ms:
            self.slept_s = now_s
            self.server.stop()
            return None
        self.looks += 1
        received = super().receive(timeout_ms)
        if received is not None:
            self.heard_s, self.looks = now_s, 0
        return received


@pytest.mark.parametrize("spin_s", [0.0, 0.05])
def test_how_long_it_looks_before_it_sleeps(spin_s: float, tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/d"
    channel = Watched(endpoint)
    channel.server = DraftServer(
        channel,
        ScriptedBackend(hash_script(VOCAB), vocab_size=VOCAB),
        VOCABULARY,
        limits=Limits(),
        trace=Trace(),
        parent=ParentWatch(0),
        spin_s=spin_s,
    )
    with TargetChannel(endpoint) as target:
        deadline = time.monotonic() + 10
        while not target.send(hello()):
            assert time.monotonic() < deadline
        channel.server.run()
    assert channel.heard_s
    if spin_s:
        assert channel.looks > 2
        assert channel.slept_s >= channel.heard_s + spin_s
    else:
        assert channel.looks <= 2  # the look that found no second message, and the sleep
