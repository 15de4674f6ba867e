"""The target's side of the line: what it says, what it drops, and how it loses and regains its draft."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sglang_mirror.core.verify import Outcome
from sglang_mirror.engine.request import Request
from sglang_mirror.protocol.liveness import Peer
from sglang_mirror.protocol.messages import (
    Beat,
    Close,
    Commit,
    FreshWindow,
    Hello,
    Open,
    Refused,
    Stamp,
    Work,
)
from tests.engine.line import HELLO, PROMPT, READY, VOCABULARY, Line, branch, commit, window


def test_ready(line: Line) -> None:
    assert line.client.draft == READY
    assert line.client.counters.connections == 1


def test_nothing_is_sent_before_the_draft_is_ready(make_line: Callable[[float], Line]) -> None:
    line = make_line(60.0)
    line.client.open("a", PROMPT)
    request = line.client.committed("a", [*PROMPT, 8])
    assert line.client.collect([request], 5000) == 0.0  # nobody waits for what cannot come
    assert request.window is None
    line.meet()
    assert line.client.committed("a", [*PROMPT, 8]) is request
    opened = line.peer.hear(Open)
    assert opened.tokens == (*PROMPT, 8)
    assert opened.window


def test_prompt_then_first_token(line: Line) -> None:
    line.client.open("a", PROMPT)
    opened = line.peer.hear(Open)
    assert (opened.tokens, opened.window, opened.rid) == (tuple(PROMPT), False, "a")
    request = line.client.committed("a", [*PROMPT, 8])
    [outcome] = line.peer.hear(Commit).committed
    assert (outcome.tokens, outcome.window_len, outcome.stamp) == ((8,), 0, request.stamp)
    assert line.client.current("a", 4) is request
    assert line.client.current("a", 3) is None


def test_opening_twice_says_it_once(line: Line) -> None:
    """A prompt prefilled in chunks passes by several times."""
    line.client.open("a", PROMPT)
    line.peer.hear(Open)
    line.client.open("a", PROMPT)
    assert line.peer.hears_nothing(Open)


def test_window_is_collected(request_: Request) -> None:
    assert request_.window is not None
    assert request_.window.tokens == (8, 1, 2)


def test_hit(line: Line, request_: Request) -> None:
    line.peer.say(branch(request_.stamp, 1, 9, 3, 4))
    line.until(lambda: line.client.counters.branches == 1)
    assert commit(line, request_, 1, 1, 9)
    assert request_.window is not None
    assert request_.window.tokens == (9, 3, 4)
    [outcome] = line.peer.hear(Commit).committed
    assert (outcome.tokens, outcome.window_len, outcome.stamp.committed_len) == ((1, 9), 2, 6)


def test_miss(line: Line, request_: Request) -> None:
    line.peer.say(branch(request_.stamp, 1, 9, 3, 4))
    line.until(lambda: line.client.counters.branches == 1)
    assert not commit(line, request_, 1, 1, 10)
    assert request_.window is None
    assert line.peer.hear(Commit).committed[0].window_len == 0


def test_stale_branches_are_dropped(line: Line, request_: Request) -> None:
    before = request_.stamp
    commit(line, request_, 0, 10)
    line.peer.say(branch(before, 0, 11, 3, 4))
    line.peer.say(branch(Stamp(request_.number, request_.generation - 1, 5), 0, 11, 3, 4))
    line.peer.say(branch(Stamp(99, 1, 5), 0, 11, 3, 4))
    line.until(lambda: line.client.counters.stale_branches == 3)
    assert not commit(line, request_, 0, 11)
    assert line.client.counters.branches == 0


def test_stale_windows_are_dropped(line: Line, request_: Request) -> None:
    before = request_.stamp
    commit(line, request_, 0, 10)
    line.peer.say(window(before, 3, 4))
    line.peer.say(window(Stamp(request_.number, 9, 5), 3, 4))
    line.peer.say(window(request_.stamp, 5, 6))
    line.until(lambda: request_.window is not None)
    assert request_.window is not None
    assert request_.window.tokens == (10, 5, 6)


def test_patience_ends_and_comes_back(line: Line, request_: Request) -> None:
    commit(line, request_, 0, 10)
    assert line.client.collect([request_], 30) >= 0.030
    assert not request_.patient
    assert line.client.collect([request_], 60_000) == 0.0  # nobody is waited for
    late = request_.stamp
    commit(line, request_, 0, 11)
    line.peer.say(window(late, 3, 4))
    line.until(lambda: request_.patient)
    assert request_.window is None


@pytest.mark.parametrize("waits", [True, False])
def test_a_miss_is_waited_for_if_that_is_decided(line: Line, request_: Request, waits: bool) -> None:
    line.client.waits = lambda misses: waits and misses == 1
    commit(line, request_, 0, 10)
    assert line.peer.hear(Commit).waits is waits
    assert line.client.awaited(request_) is waits
    assert (line.client.collect([request_], 10) > 0.0) is waits
    assert line.client.awaited(request_) is (None if waits else False)  # in vain


def test_a_request_that_joins_is_waited_for_if_that_is_decided(line: Line, request_: Request) -> None:
    request = line.client.committed("a", [*PROMPT, 8, 9], waits=False)
    assert not line.peer.hear(Commit).waits
    assert line.client.awaited(request) is False
    assert request is request_
    assert line.client.awaited(line.client.committed("b", PROMPT, waits=False)) is False
    assert line.client.awaited(line.client.committed("c", PROMPT)) is True


def test_of_many_misses_all_are_waited_for(line: Line, request_: Request) -> None:
    other, unheld = line.client.committed("b", [*PROMPT, 9]), Request("c", 9, [*PROMPT, 9])
    line.client.waits = (2).__le__
    line.peer.say(branch(request_.stamp, 0, 10, 3, 4))
    line.until(lambda: line.client.counters.branches == 1)
    outcomes = [(each, Outcome(0, 10), [10]) for each in (request_, other, unheld)]
    line.client.commit(outcomes)  # one hit, one miss, and one that no draft has heard of
    assert not line.peer.hear(Commit).waits
    line.client.commit(outcomes)
    said = line.peer.hear(Commit)
    assert said.waits
    assert [each.window_len for each in said.committed] == [0, 0]
    assert request_.awaited and other.awaited and not unheld.awaited


@pytest.mark.parametrize("reads", [True, False])
def test_the_draft_hears_whether_a_signal_follows(line: Line, request_: Request, reads: bool) -> None:
    """None does where the exit goes unread, nor behind roots that are verified alone."""
    line.client.signals = reads
    line.client.committed("a", [*PROMPT, 8, 9])
    assert line.peer.hear(Commit).signals is reads
    commit(line, request_, 0, 10)
    assert line.peer.hear(Commit).signals is reads
    line.client.waits = lambda _misses: False
    commit(line, request_, 0, 10)
    assert not line.peer.hear(Commit).signals


def test_closed_requests_are_forgotten(line: Line, request_: Request) -> None:
    line.client.close(["a", "unknown"])
    assert line.peer.hear(Close).requests == (request_.number,)
    assert line.client.num_requests == 0
    line.peer.say(window(request_.stamp, 3, 4))
    line.peer.say(Beat(0, Work(5.0, 3, 12)))
    line.until(lambda: line.client.counters.busy_ms == 5.0)
    assert (line.client.counters.draft_windows, line.client.counters.draft_forwards) == (3, 12)
    assert line.client.committed("a", PROMPT) is not request_


def test_a_request_that_begins_again_is_opened_again(line: Line, request_: Request) -> None:
    """Retracted, it comes back with what it had: nothing to say. With another text: a new generation."""
    line.client.open("a", [*PROMPT, 8])
    assert line.peer.hears_nothing(Open)
    line.client.open("a", [1, 2])
    opened = line.peer.hear(Open)
    assert opened.stamp.generation == 2
    assert request_.window is None


def test_a_silent_draft_is_lost_and_won_back(make_line: Callable[[float], Line]) -> None:
    line = make_line(0.2)
    line.meet()
    line.client.open("a", PROMPT)
    request = line.client.committed("a", [*PROMPT, 8])
    line.tick_until(Peer.LOST)
    assert line.client.collect([request], 60_000) == 0.0
    commit(line, request, 0, 9)  # and goes on without it
    line.meet()
    assert line.client.counters.connections == 2
    assert line.client.current("a", 5) is None
    assert line.client.committed("a", [*PROMPT, 8, 9]) is request
    opened = line.peer.hear(Open)  # the first one went by while they met again
    assert opened.tokens == (*PROMPT, 8, 9)
    assert opened.window
    assert opened.stamp.generation == 2


def test_what_a_lost_draft_still_says_is_not_believed(make_line: Callable[[float], Line]) -> None:
    line = make_line(0.2)
    line.meet()
    line.client.open("a", PROMPT)
    request = line.client.committed("a", [*PROMPT, 8])
    line.tick_until(Peer.LOST)
    line.peer.say(Beat(1, Work(9.0, 4, 9)))
    line.until(lambda: line.client.counters.busy_ms == 9.0)
    assert line.client.peer is Peer.LOST
    assert request.window is None


def test_what_a_draft_had_done_before_it_was_lost_still_counts(make_line: Callable[[float], Line]) -> None:
    """As the time for which it was waited does: the hidden fraction is made of both."""
    line = make_line(0.2)
    line.meet()
    line.peer.say(Beat(0, Work(4.0, 2, 6)))
    line.peer.say(Beat(0, Work(9.0, 4, 9)))
    line.until(lambda: line.client.counters.busy_ms == 9.0)
    line.tick_until(Peer.LOST)
    line.meet()
    line.peer.say(Beat(0, Work(1.5, 1, 2)))
    line.until(lambda: line.client.counters.busy_ms == 10.5)
    assert (line.client.counters.draft_windows, line.client.counters.draft_forwards) == (5, 11)
    line.client.counters.waited_ms = 2.1
    assert line.client.counters.report()["hidden_fraction"] == pytest.approx(0.8)


def test_refused_for_good(make_line: Callable[[float], Line]) -> None:
    line = make_line(60.0)
    assert _hello(line) == HELLO
    line.peer.say(Refused(1, ("other words", "other version")))
    line.tick_until(Peer.REFUSED)
    assert line.client.refusal == "other words; other version"
    line.peer.hears_nothing(Hello)  # what was under way
    line.client.tick()
    assert line.peer.hears_nothing(Hello)


def _hello(line: Line) -> Hello:
    while (received := line.peer.channel.receive(20)) is None:
        line.client.tick()
    line.peer.target, message = received
    assert isinstance(message, Hello)
    return message


def test_nonsense_is_refused(line: Line) -> None:
    line.peer.channel._socket.send_multipart([line.peer.target, b"\xc1 nonsense"])
    line.tick_until(Peer.REFUSED)
    assert line.client.refusal is not None
    assert "is the peer sglang-mirror" in line.client.refusal


def test_tokens_that_the_target_does_not_know_are_cut_off(line: Line, request_: Request) -> None:
    """A draft's vocabulary may be padded further than the target's."""
    line.peer.say(branch(request_.stamp, 1, 9, 3, VOCABULARY))
    line.peer.say(branch(request_.stamp, 1, VOCABULARY, 3, 4))
    line.until(lambda: line.client.counters.branches == 2)
    assert commit(line, request_, 1, 1, 9)
    assert request_.window is not None
    assert request_.window.tokens == (9, 3)


@pytest.mark.parametrize(
    ("parents", "said"),
    [((0, 0), "larger, deeper or wider"), ((0, 1, 2), "larger, deeper or wider"), ((0, 2), "no tree")],
)
def test_a_window_of_another_shape_is_refused(
    line: Line, request_: Request, parents: tuple[int, ...], said: str
) -> None:
    commit(line, request_, 0, 10)
    tokens = tuple(range(1, 1 + len(parents)))
    line.peer.say(FreshWindow(request_.stamp, tokens, parents, Work(0.0, 0, 0)))
    line.tick_until(Peer.REFUSED)
    assert request_.window is None
    assert line.client.refusal is not None
    assert said in line.client.refusal
