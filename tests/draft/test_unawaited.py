"""A request that missed and that nobody waits for: its root is verified alone, and branches follow it."""

from __future__ import annotations

import pytest

from sglang_mirror.protocol.messages import (
    Branches,
    Commit,
    Committed,
    ExitCandidates,
    FreshWindow,
    RolledOut,
    Signal,
    Stamp,
)
from tests.draft.draft_playing import Player, commit, hello, opening, player

A = b"a"
GAMMA = 3


def after_a_miss(*, waits: bool, roots: str = "union", signals: bool = True) -> Player:
    playing = player()
    playing.greet(A, hello(gamma=GAMMA, roots=roots, budget=4))
    playing.say(A, opening(1, 4))
    playing.settle()
    playing.take(A)
    playing.say(A, Commit(commit(1, 5, 7).committed, waits=waits, signals=signals))
    playing.settle()
    return playing


def branches(playing: Player) -> list[RolledOut]:
    """The last version of each."""
    said = [each for m in playing.take(A) if isinstance(m, Branches) for each in m.branches]
    return list({(each.node, each.token): each for each in said}.values())


def test_it_has_branches_behind_its_root_and_no_window() -> None:
    playing = after_a_miss(waits=False)
    assert not [m for m in playing.heard[A] if isinstance(m, FreshWindow)]
    found = branches(playing)
    assert len(found) == 3  # of a budget of 4 the signal's share is left
    assert {(each.node, len(each.tokens)) for each in found} == {(0, GAMMA)}


@pytest.mark.parametrize("waits", [True, False])
def test_where_no_signal_follows_its_share_of_the_branches_is_the_drafts(waits: bool) -> None:
    silent = branches(after_a_miss(waits=waits, signals=False))
    assert len(silent) == 4
    assert silent[:3] == branches(after_a_miss(waits=waits))


def test_the_first_of_them_is_what_its_window_would_have_been() -> None:
    waited, not_waited = after_a_miss(waits=True), after_a_miss(waits=False)
    [window] = [m for m in waited.take(A) if isinstance(m, FreshWindow)]
    first = branches(not_waited)[0]
    assert (first.token, *first.tokens[: GAMMA - 1]) == window.tokens


def test_the_exit_speaks_of_its_root() -> None:
    playing = after_a_miss(waits=False)
    taken = {each.token for each in branches(playing)}
    strange = next(token for token in range(61) if token not in taken)
    said = ExitCandidates(Stamp(1, 0, 5), ((strange,),), ((-0.1,),))
    playing.say(A, Signal((said,)))
    playing.settle()
    assert [(each.token, each.source) for each in branches(playing)] == [(strange, "exit")]


def test_a_hit_goes_on_from_the_branch_and_computes_none_of_it_again() -> None:
    playing = after_a_miss(waits=False, roots="draft")
    first = branches(playing)[0]
    playing.say(A, Commit((Committed(Stamp(1, 0, 6), (first.token,), len(first.tokens)),)))
    # What it takes to prepare for the outcomes of a window that is there but for its last node.
    assert playing.settle() <= GAMMA + 2
    assert {each.node for each in branches(playing)} <= set(range(GAMMA + 1))


def test_a_second_miss_may_be_waited_for() -> None:
    playing = after_a_miss(waits=False)
    playing.take(A)
    playing.say(A, Commit(commit(1, 6, 60).committed))
    playing.settle()
    assert [len(m.tokens) for m in playing.take(A) if isinstance(m, FreshWindow)] == [GAMMA]


@pytest.mark.parametrize("roots", ["exit", "union"])
def test_who_waited_in_vain_speaks_of_the_root_while_the_window_still_grows(roots: str) -> None:
    playing = player()
    playing.greet(A, hello(gamma=GAMMA, roots=roots, budget=4))
    playing.say(A, opening(1, 4))
    playing.say(A, Signal((ExitCandidates(Stamp(1, 0, 4), ((9,),), ((-0.1,),)),)))
    playing.settle()
    assert [len(m.tokens) for m in playing.take(A) if isinstance(m, FreshWindow)] == [GAMMA]
