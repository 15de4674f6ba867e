"""The whole service over a backend, no socket: a target whose every outcome has a branch, step by step."""

from __future__ import annotations

from dataclasses import dataclass, field

from sglang_mirror.draft.backends.base import Backend
from sglang_mirror.draft.greeting import reserve
from sglang_mirror.draft.scheduler import Limits
from sglang_mirror.draft.service import DraftService
from sglang_mirror.errors import DraftError
from sglang_mirror.protocol.messages import (
    VERSION,
    Branches,
    Commit,
    Committed,
    Failed,
    FreshWindow,
    Hello,
    Message,
    Open,
    RolledOut,
    Stamp,
)

VOCABULARY = "timing"
KAPPA = 8


@dataclass(slots=True)
class _Request:
    """As its target sees it: of which outcomes it has branches, by node and token."""

    identity: bytes
    num_committed: int = 0
    window: tuple[int, ...] = ()  # without its root
    branches: dict[tuple[int, int], RolledOut] = field(default_factory=dict)


class Served:
    """Requests that the draft's service holds, each of a target of its own.

    Args:
        backend: the draft.
        limits: rows in a forward.
        num_roots: of each request; those of none are left out.
        text_len: tokens of each request's text.
        gamma: tokens of a branch.

    Attributes:
        num_forwards: of the last step.
    """

    def __init__(
        self, backend: Backend, limits: Limits, *, num_roots: list[int], text_len: int, gamma: int
    ) -> None:
        self.num_forwards = 0
        self._text = tuple(17 * place % backend.vocab_size for place in range(text_len))
        self._most = backend.max_len - reserve(gamma)
        self._service = DraftService(backend, VOCABULARY, self._hear, limits=limits)
        self._requests = dict[bytes, _Request]()
        for number, budget in enumerate(filter(None, num_roots)):
            identity = str(number).encode()
            self._requests[identity] = _Request(identity)
            hello = Hello(
                version=VERSION,
                vocabulary=VOCABULARY,
                gamma=gamma,
                topk=1,
                nodes=gamma + 1,
                kappa=KAPPA,
                roots="draft",
                root_budget=budget,
                beat_ms=1000,
                target="timing",
            )
            self._service.handle(identity, hello, 0.0)
        self._open()

    def run(self) -> None:
        """A step: of each request an outcome comes true that has a branch, and all those behind it are made.

        Raises:
            DraftError: the draft lets a request go.
        """
        if any(each.num_committed + len(each.window) + 1 > self._most for each in self._requests.values()):
            self._open()
        for request in self._requests.values():
            self._commit(request)
        self._settle()

    def _open(self) -> None:
        """From the text on again."""
        for request in self._requests.values():
            request.num_committed = len(self._text)
            self._service.handle(request.identity, Open(self._stamp(request), "", self._text, True), 0.0)
        self._settle()

    def _commit(self, request: _Request) -> None:
        """The outcome nearest to the window's root, so that the text grows by as little as may be."""
        node, token = min(request.branches)
        hit = request.branches[node, token]
        tokens = (*request.window[:node], token)
        request.window, request.branches = hit.tokens, {}
        request.num_committed += len(tokens)
        committed = Committed(self._stamp(request), tokens, len(hit.tokens))
        self._service.handle(request.identity, Commit((committed,)), 0.0)

    def _stamp(self, request: _Request) -> Stamp:
        return Stamp(0, 0, request.num_committed)

    def _settle(self) -> None:
        self.num_forwards = 0
        while self._service.step():
            self.num_forwards += 1

    def _hear(self, identity: bytes, message: Message) -> bool:
        request = self._requests[identity]
        match message:
            case FreshWindow():
                request.window, request.branches = message.tokens, {}
            case Branches():
                request.branches |= {(each.node, each.token): each for each in message.branches}
            case Failed():
                raise DraftError(f"the draft lets go of what is timed: {message.reason}")
        return True
