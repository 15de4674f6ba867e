"""Windows that end before their depth because the target says what the next token must be worth."""

from __future__ import annotations

import math

import pytest

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


@pytest.mark.parametrize(("topk", "nodes"), [(1, 0), (3, 12)])
def test_a_window_that_is_waited_for_ends_where_the_wait_does_not_pay(topk: int, nodes: int) -> None:
    """Branches are not waited for: they are whole."""
    playing = player()
    playing.greet(A, hello(gamma=5, topk=topk, nodes=nodes, roots="draft", budget=3))
    playing.say(A, opening(1, 4))
    playing.settle()
    playing.say(A, Commit(commit(1, 5, 7).committed, rate=1e9))  # not even one token pays
    playing.settle()
    playing.take(A)
    playing.say(A, opening(2, 9))
    playing.settle()
    said = playing.take(A)
    assert [len(m.tokens) for m in said if isinstance(m, FreshWindow)] == [topk]
    whole = 5 if topk == 1 else 11
    assert {len(b.tokens) for m in said if isinstance(m, Branches) and m.phase for b in m.branches} == {whole}


def test_windows_that_are_waited_for_together_share_the_wait() -> None:
    """A forward of all of them costs as much as one of a single window, and brings more."""
    total = []
    for num_requests in (1, 8):
        playing = player(delay_s=0.002)
        playing.greet(A, hello(gamma=5, roots="none"))
        numbers = range(1, num_requests + 1)
        for number in numbers:
            playing.say(A, opening(number, 4))
        playing.settle()
        playing.take(A)
        committed = [each for number in numbers for each in commit(number, 5, number).committed]
        playing.say(A, Commit(tuple(committed), rate=400.0))
        playing.settle()
        total.append(sum(len(m.tokens) for m in playing.take(A) if isinstance(m, FreshWindow)))
    alone, together = total
    assert alone < 5
    assert together > 8 * alone
