"""A draft client at one end of a real line, and a peer that says what a test tells it at the other."""

from __future__ import annotations

import time
from typing import Any, TypeVar

from sglang_mirror.core.verify import Outcome
from sglang_mirror.engine.draft_client import DraftClient
from sglang_mirror.engine.request import Request
from sglang_mirror.protocol.channel import DraftChannel
from sglang_mirror.protocol.liveness import Peer
from sglang_mirror.protocol.messages import (
    VERSION,
    Branches,
    FreshWindow,
    Hello,
    Message,
    Ready,
    RolledOut,
    Stamp,
    Work,
)

T = TypeVar("T", bound=Message)
DEADLINE_S = 10.0
PROMPT = [5, 6, 7]
VOCABULARY = 50
HELLO = Hello(
    VERSION, "words", gamma=2, topk=1, nodes=3, kappa=2, roots="union", root_budget=4, beat_ms=20, target="t"
)
READY = Ready(VERSION, "words", "scripted", pid=7, device="cpu", max_len=100)


class ScriptedPeer:
    """The draft's end."""

    def __init__(self, channel: DraftChannel) -> None:
        self.channel = channel
        self.target = b""

    def hear(self, kind: type[T]) -> T:
        """The next message of a kind; others are passed over."""
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            received = self.channel.receive(50)
            if received is not None:
                self.target, message = received
                if isinstance(message, kind):
                    return message
        raise AssertionError(f"no {kind.__name__} came")

    def hears_nothing(self, kind: type[Message], timeout_ms: int = 150) -> bool:
        received = self.channel.receive(timeout_ms)
        while received is not None:
            if isinstance(received[1], kind):
                return False
            received = self.channel.receive(timeout_ms)
        return True

    def say(self, message: Message) -> None:
        self.channel.send(self.target, message)


class Line:
    """Both ends."""

    def __init__(self, client: DraftClient, peer: ScriptedPeer) -> None:
        self.client, self.peer = client, peer

    def meet(self, ready: Ready = READY) -> None:
        """Hello and its answer: one, however often Hello is said until it comes."""
        deadline, answered = time.monotonic() + DEADLINE_S, False
        while self.client.peer is not Peer.READY:
            assert time.monotonic() < deadline
            self.client.tick()
            received = self.peer.channel.receive(20)
            if received is not None and isinstance(received[1], Hello) and not answered:
                self.peer.target, answered = received[0], True
                self.peer.say(ready)

    def until(self, condition: Any) -> None:
        """Let the client hear until `condition()` holds."""
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline, "the client never heard it"
            self.client.receive(20)

    def tick_until(self, state: Peer) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while self.client.tick() is not state:
            assert time.monotonic() < deadline, self.client.peer
            time.sleep(0.01)


def window(stamp: Stamp, *tokens: int) -> FreshWindow:
    return FreshWindow(stamp, tokens, tuple(range(len(tokens))), Work(1.0, 1, 2))


def branch(stamp: Stamp, node: int, token: int, *tokens: int, phase: int = 0) -> Branches:
    rolled = RolledOut(node, token, "draft", tokens, tuple(range(len(tokens))))
    return Branches(stamp, (rolled,), phase, Work(2.0, 2, 4))


def commit(line: Line, request: Request, node: int, *tokens: int) -> bool:
    """Whether the outcome hit."""
    [found] = line.client.commit([(request, Outcome(node, tokens[-1]), list(tokens))])
    return found is not None
