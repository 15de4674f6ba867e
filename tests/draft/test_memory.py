"""A request whose KV finds no memory fails alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest

from sglang_mirror.draft.backends.base import Said, Segment
from sglang_mirror.draft.backends.scripted import ScriptedBackend, ScriptedCache, hash_script
from sglang_mirror.errors import DraftError
from sglang_mirror.protocol.messages import Branches, Commit, Committed, Failed, FreshWindow, Stamp
from tests.draft.draft_playing import VOCAB, Player, commit, hello, kinds, opening

A = b"a"
FULL = "CUDA out of memory. Tried to allocate 2.00 GiB.\nSee documentation"


@dataclasses.dataclass
class Stiff(ScriptedCache):
    """Cannot gather anything."""

    def move(self, slots: Sequence[int], start: int) -> None:  # noqa: ARG002
        raise RuntimeError(FULL)


class Small(ScriptedBackend):
    """A model beside which there is memory for few tokens.

    Args:
        most_at_open: tokens of a prompt.
        most: tokens of a request in a forward.
        moves: whether there is memory for a commit.
    """

    def __init__(self, *, most_at_open: int = 10_000, most: int = 10_000, moves: bool = True) -> None:
        super().__init__(hash_script(VOCAB), vocab_size=VOCAB, max_len=2000)
        self._most_at_open, self._most, self._moves = most_at_open, most, moves

    def new_cache(self, num_tokens: int = 0) -> ScriptedCache:
        if num_tokens > self._most_at_open:
            raise RuntimeError(FULL)
        return ScriptedCache() if self._moves else Stiff()

    def reserve(self, segment: Segment) -> None:
        if segment.start + len(segment.tokens) > self._most:
            raise RuntimeError(FULL)

    def forward(self, segments: Sequence[Segment], num_candidates: int) -> list[list[Said]]:
        for segment in segments:
            self.reserve(segment)
        return super().forward(segments, num_candidates)


def served(backend: Small, *lengths: int) -> tuple[list[int], list[Failed]]:
    """The requests that got a window, of those with so many tokens, and what was said of the others."""
    playing = Player(backend)
    playing.greet(A, hello())
    for number, length in enumerate(lengths):
        playing.say(A, opening(number, length))
    playing.settle()
    said = playing.take(A)
    windows = [message.stamp.request for message in said if isinstance(message, FreshWindow)]
    return sorted(windows), [message for message in said if isinstance(message, Failed)]


@pytest.mark.parametrize("backend", [Small(most_at_open=100), Small(most=100)], ids=["open", "forward"])
def test_what_does_not_fit_fails_alone(backend: Small) -> None:
    windows, failed = served(backend, 5, 120, 40, 7)
    assert windows == [0, 2, 3]
    assert [message.stamp.request for message in failed] == [1]
    assert failed[0].reason == "the draft cannot hold its KV: CUDA out of memory. Tried to allocate 2.00 GiB."


def test_a_commit_that_finds_no_memory() -> None:
    playing = Player(Small(moves=False))
    playing.greet(A, hello())
    playing.say(A, opening(1, 5))
    playing.say(A, opening(2, 7))
    playing.settle()
    said = playing.take(A)
    window = next(m for m in said if isinstance(m, FreshWindow) and m.stamp.request == 1)
    branches = [m.branches for m in said if isinstance(m, Branches) and m.stamp.request == 1]
    hit = branches[-1][-1]
    tokens = (*window.tokens[: hit.node], hit.token)
    playing.say(A, Commit((Committed(Stamp(1, 0, 5 + len(tokens)), tokens, len(hit.tokens)),)))
    assert kinds(playing.take(A)) == ["Failed"]
    playing.say(A, commit(2, 8, 1))
    playing.settle()
    assert kinds(playing.take(A))[0] == "FreshWindow"


def test_an_accelerator_that_holds_nothing_is_lost() -> None:
    with pytest.raises(DraftError, match="failed 3 times in a row: CUDA out of memory"):
        served(Small(most_at_open=0), 3, 4, 5)
