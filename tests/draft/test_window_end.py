"""Windows that end before their depth because the target says what the next token must be worth."""

from __future__ import annotations

import math

from sglang_mirror.protocol.messages import Branches, Commit, FreshWindow
from tests.draft.draft_playing import commit, hello, opening, player

A = b"a"


def test_windows_end_where_the_target_says() -> None:
    playing = player()
    playing.greet(A, hello(gamma=5, roots="draft", budget=3))
    playing.say(A, opening(1, 4))
    playing.settle()
    playing.take(A)
    lengths = []
    for length, least in ((5, -0.001), (6, -math.inf)):
        playing.say(A, Commit(commit(1, length, 7).committed, least))
        playing.settle()
        said = playing.take(A)
        lengths.append([len(m.tokens) for m in said if isinstance(m, FreshWindow)])
        lengths.append([len(b.tokens) for m in said if isinstance(m, Branches) for b in m.branches])
    assert lengths[0] == [1]
    assert set(lengths[1]) == {1}
    assert lengths[2] == [5]
    assert max(lengths[3]) == 5


def test_the_forward_that_ends_a_window_counts() -> None:
    playing = player()
    playing.greet(A, hello(gamma=5, roots="none"))
    playing.say(A, opening(1, 4))
    playing.settle()
    playing.say(A, Commit(commit(1, 5, 7).committed, -0.001))
    playing.settle()
    first, second = (m.work for m in playing.take(A) if isinstance(m, FreshWindow))
    assert (first.windows, first.forwards) == (1, 5)
    assert (second.windows, second.forwards) == (2, 5 + 2)  # its one token, and that no more pays
