"""One request as the target's side keeps it for its draft."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field

from sglang_mirror.core.branches import BranchTable
from sglang_mirror.core.window import Window
from sglang_mirror.protocol.messages import Stamp

# A draft that gives a request up twice (too long, say) is not asked a third time.
MAX_FAILURES = 2
LONGEST_NAME = 200
# The epoch of a request that no draft holds.
UNHELD = -1


@dataclass(slots=True)
class Request:
    """What was committed, what the draft knows of it, and what it has prepared.

    Attributes:
        rid: SGLang's name for it.
        number: our name for it on the wire.
        tokens: all committed tokens; the last is the next window's root.
        generation: how often it was opened at a draft.
        epoch: the draft's life in which it was opened; another epoch's draft has never heard of it.
        window: the next window, if there is one yet.
        awaited: whether the draft was asked for it.
        table: branches for the window being verified.
        phase: the last phase whose branches have all come.
        patient: whether waiting for a window has not been in vain lately.
        failures: how often the draft gave it up.
    """

    rid: str
    number: int
    tokens: list[int]
    generation: int = 0
    epoch: int = UNHELD
    window: Window | None = None
    awaited: bool = False
    table: BranchTable = field(default_factory=BranchTable)
    phase: int = 0
    patient: bool = True
    failures: int = 0

    @property
    def name(self) -> str:
        """Its rid for the draft's log; a user's may be of any length and hold what is no text."""
        return self.rid[:LONGEST_NAME].encode(errors="replace").decode()

    @property
    def stamp(self) -> Stamp:
        return Stamp(self.number, self.generation, len(self.tokens))

    @property
    def given_up(self) -> bool:
        return self.failures >= MAX_FAILURES

    def advance(self, tokens: list[int]) -> None:
        """Commit tokens; what was prepared for another state is dropped."""
        self.tokens += tokens
        self.window, self.awaited = None, False
        self.phase = 0
        self.table.restart(len(self.tokens))

    def reopen(self, epoch: int) -> None:
        """The draft is about to hear of it anew."""
        self.generation += 1
        self.epoch = epoch
        self.advance([])


class Requests:
    """All of a target's requests, by SGLang's name and by our number."""

    def __init__(self) -> None:
        self._by_rid: dict[str, Request] = {}
        self._by_number: dict[int, Request] = {}
        self._numbers = itertools.count(1)

    def __len__(self) -> int:
        return len(self._by_rid)

    def get(self, rid: str) -> Request | None:
        return self._by_rid.get(rid)

    def known(self, rid: str) -> Request:
        """The request of that name, from now on if not before."""
        if rid not in self._by_rid:
            request = Request(rid, next(self._numbers), [])
            self._by_rid[rid] = self._by_number[request.number] = request
        return self._by_rid[rid]

    def of(self, stamp: Stamp) -> Request | None:
        """Whose stamp it is; None if it has been opened anew since, or is over."""
        request = self._by_number.get(stamp.request)
        return request if request and request.generation == stamp.generation else None

    def drop(self, rids: Iterable[str]) -> list[Request]:
        """Forget these; those of them that were known."""
        gone = [request for rid in rids if (request := self._by_rid.pop(rid, None))]
        for request in gone:
            del self._by_number[request.number]
        return gone
