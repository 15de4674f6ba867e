"""One request as the target's side keeps it for its draft."""

from __future__ import annotations

from dataclasses import dataclass, field

from sglang_mirror.core.branches import BranchTable
from sglang_mirror.core.window import Window
from sglang_mirror.protocol.messages import Stamp

# A draft that gives a request up twice (too long, say) is not asked a third time.
MAX_FAILURES = 2


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
        table: branches for the window being verified.
        phase: the last phase whose branches have all come.
        patient: whether waiting for a window has not been in vain lately.
        failures: how often the draft gave it up.
    """

    rid: str
    number: int
    tokens: list[int]
    generation: int = 0
    epoch: int = -1
    window: Window | None = None
    table: BranchTable = field(default_factory=BranchTable)
    phase: int = 0
    patient: bool = True
    failures: int = 0

    @property
    def stamp(self) -> Stamp:
        return Stamp(self.number, self.generation, len(self.tokens))

    @property
    def given_up(self) -> bool:
        return self.failures >= MAX_FAILURES

    def advance(self, tokens: list[int]) -> None:
        """Commit tokens; what was prepared for another state is dropped."""
        self.tokens += tokens
        self.window = None
        self.phase = 0
        self.table.restart(len(self.tokens))

    def reopen(self, epoch: int) -> None:
        """The draft is about to hear of it anew."""
        self.generation += 1
        self.epoch = epoch
        self.advance([])
