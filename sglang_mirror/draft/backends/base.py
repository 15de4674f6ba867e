"""What the scheduler needs of a model: rows of several requests in, candidates out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sglang_mirror.core.roots import Candidates


class Cache(Protocol):
    """One request's KV, by slot."""

    def move(self, slots: Sequence[int], start: int) -> None:
        """Gather what is in `slots` into the slots from `start` on, in that order.

        Raises:
            RuntimeError: there is no memory to do it.
        """


@dataclass(frozen=True, slots=True)
class Segment:
    """The rows of one request in one forward; they are written to consecutive slots.

    Attributes:
        cache: the request's KV.
        tokens: the rows' token ids, [n].
        positions: their places in the text, [n].
        start: slot of the first row.
        prefix: every row sees the slots 0..prefix - 1.
        seen: what else each row sees, its own slot included: bit i stands for slot `prefix + i`. [n]
        wanted: the rows whose candidates are wanted, ascending.
        streamed: those of them after which a streaming draft's streams are wanted as well.
    """

    cache: Cache
    tokens: Sequence[int]
    positions: Sequence[int]
    start: int
    prefix: int
    seen: Sequence[int]
    wanted: Sequence[int]
    streamed: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Said:
    """What the draft says after one row.

    Attributes:
        next: candidates for the next token.
        ahead: of a streaming draft, for the token after that, and so on, one a stream.
    """

    next: Candidates
    ahead: tuple[Candidates, ...] = ()


class Backend(Protocol):
    """A draft model.

    Attributes:
        name: the model's name.
        device: where it computes.
        max_len: tokens that a request may have.
        vocab_size: token ids are below it.
        rows_at_once: that it computes in one go; of more it computes so many in turn. None: any number.
    """

    name: str
    device: str
    max_len: int
    vocab_size: int
    rows_at_once: int | None

    def prepare(self, num_candidates: int, num_seen: int) -> None:
        """From now on so much may be asked for: what that costs is paid now.

        Args:
            num_candidates: for each row.
            num_seen: slots behind its prefix that a row may see, or be behind; wrong guesses of a streaming
                draft's not counted.

        Raises:
            RuntimeError: they cannot be had; as many as before can.
        """

    def new_cache(self, num_tokens: int = 0) -> Cache:
        """An empty cache for one request, with room for so many; freed when the last reference goes.

        Raises:
            RuntimeError: there is no memory for it.
        """

    def reserve(self, segment: Segment) -> None:
        """Make room for a segment's rows, and for what is computed behind them, before its forward.

        Raises:
            RuntimeError: there is no memory for it.
        """

    def forward(self, segments: Sequence[Segment], num_candidates: int) -> list[list[Said]]:
        """Compute all rows at once and write their KV.

        Args:
            segments: at most one for each request.
            num_candidates: most probable tokens to return for each wanted row.

        Returns:
            for each segment, what is said after its wanted rows.
        """
