"""Every message on the wire. Frozen, tagged, versioned; ints and floats only.

Whatever belongs to a request carries a `Stamp`; the receiver drops what another stamp has overtaken. Nodes
are indices into the window that the target verifies, the root being node 0.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from sglang_mirror.core.growth import WindowShape

VERSION = 7


class Stamp(msgspec.Struct, frozen=True, array_like=True):
    """Which state of which request something was said of.

    Attributes:
        request: a number that the target chose for the request.
        generation: counts how often the target opened it.
        committed_len: tokens that were committed, the window's root being the last of them.
    """

    request: int
    generation: int
    committed_len: int


class Message(msgspec.Struct, frozen=True, array_like=True):
    """Base of all messages."""


# ---- target to draft


class Hello(Message, frozen=True, tag="hello"):
    """First word of a target: who asks, and the settings that its requests share.

    Attributes:
        version: of this protocol.
        vocabulary: fingerprint of the target's tokenizer.
        gamma: depth of a window, in draft tokens.
        topk: children a node; 1 makes a chain.
        nodes: of a window, at most, its root included; gamma + 1 for a chain.
        kappa: exit candidates a node; the draft keeps kappa + 1 of its own.
        roots: exit, draft, union or none.
        root_budget: roots a step and request.
        beat_ms: how often the draft must be heard, in milliseconds.
        target: the target's name, for the draft's log.
    """

    version: int
    vocabulary: str
    gamma: int
    topk: int
    nodes: int
    kappa: int
    roots: Literal["exit", "draft", "union", "none"]
    root_budget: int
    beat_ms: int
    target: str

    @property
    def shape(self) -> WindowShape:
        """Bounds of a window."""
        return WindowShape(self.gamma, self.topk, self.nodes - 1)


class Open(Message, frozen=True, tag="open"):
    """A request begins, or begins again: all its committed tokens.

    Attributes:
        rid: the server's name for the request, for logs.
        tokens: the committed tokens; `stamp.committed_len` of them.
        window: whether a window is wanted now (False: a prompt whose first token the target still computes).
    """

    stamp: Stamp
    rid: str
    tokens: tuple[int, ...]
    window: bool


class Committed(msgspec.Struct, frozen=True, array_like=True):
    """What one request's verification ended with.

    Attributes:
        stamp: the request after the commit.
        tokens: what was committed: accepted draft tokens, then the correction.
        window_len: draft tokens of the branch that the target verifies next, as far as it had come; 0 after a
            miss.
    """

    stamp: Stamp
    tokens: tuple[int, ...]
    window_len: int


class Commit(Message, frozen=True, tag="commit"):
    """What one step committed, of every request of the batch.

    Attributes:
        least: log-probability that the verified path must come to a node with, for the target to have it
            verified; -inf for every node that there is room for.
        rate: tokens a second that the target commits, of all requests: what a window that it waits for costs
            it. 0: unknown, or it waits for whole windows.
        waits: whether it waits for the windows of requests that missed. If not, it verifies their roots alone
            and wants branches for what may follow these.
        signals: whether a Signal will follow, from the verification that these commits begin.
    """

    committed: tuple[Committed, ...]
    least: float = -math.inf
    rate: float = 0.0
    waits: bool = True
    signals: bool = True


class ExitCandidates(msgspec.Struct, frozen=True, array_like=True):
    """The early exit's candidates for one request's window, a node's own children left out.

    Attributes:
        tokens: [n][kappa], most probable first.
        logprobs: [n][kappa], natural logarithms.
    """

    stamp: Stamp
    tokens: tuple[tuple[int, ...], ...]
    logprobs: tuple[tuple[float, ...], ...]


class Signal(Message, frozen=True, tag="signal"):
    """What the target will probably say, sent half-way through its verification."""

    candidates: tuple[ExitCandidates, ...]


class Close(Message, frozen=True, tag="close"):
    """These requests are over."""

    requests: tuple[int, ...]


# ---- draft to target


class Work(msgspec.Struct, frozen=True, array_like=True):
    """What a draft has done for a target since its Hello.

    Attributes:
        busy_ms: time in rollouts; a shared forward's time is shared by rows.
        windows: windows and branches rolled out to their end.
        forwards: forwards that these took, one after another; the root's own is among them.
    """

    busy_ms: float
    windows: int
    forwards: int


class Ready(Message, frozen=True, tag="ready"):
    """The answer to Hello: the draft serves this target.

    Attributes:
        draft: the draft model's name.
        pid: the draft's process, on its own machine.
        device: where the draft computes.
        max_len: tokens that a request may have before the draft gives it up.
    """

    version: int
    vocabulary: str
    draft: str
    pid: int
    device: str
    max_len: int


class Refused(Message, frozen=True, tag="refused"):
    """The answer to a Hello that cannot be served, and every reason why."""

    version: int
    reasons: tuple[str, ...]


class FreshWindow(Message, frozen=True, tag="window"):
    """The window after the committed tokens of `stamp`, its root left out (a miss, or a request's first).

    Attributes:
        tokens: draft tokens, [n - 1].
        parents: their parents; node i + 1 carries tokens[i]. [n - 1]
        work: of this draft for this target so far.
    """

    stamp: Stamp
    tokens: tuple[int, ...]
    parents: tuple[int, ...]
    work: Work


class RolledOut(msgspec.Struct, frozen=True, array_like=True):
    """One branch: were the outcome (node, token), this window would come next (root left out).

    It may come twice: first without its last tokens, then whole.
    """

    node: int
    token: int
    source: Literal["draft", "exit"]
    tokens: tuple[int, ...]
    parents: tuple[int, ...]


class Branches(Message, frozen=True, tag="branches"):
    """Branches of one request's window, pushed as they are rolled out.

    Attributes:
        phase: the last phase (1 draft's logits, 2 exit's) whose branches have now all been sent; 0 if none.
        work: of this draft for this target so far.
    """

    stamp: Stamp
    branches: tuple[RolledOut, ...]
    phase: int
    work: Work


class Failed(Message, frozen=True, tag="failed"):
    """The draft cannot go on with this request; the target decodes it plainly."""

    stamp: Stamp
    reason: str


class Beat(Message, frozen=True, tag="beat"):
    """The draft lives.

    Attributes:
        requests: requests it holds for this target.
        work: of it for this target so far.
    """

    requests: int
    work: Work


FromTarget = Hello | Open | Commit | Signal | Close
FromDraft = Ready | Refused | FreshWindow | Branches | Failed | Beat
