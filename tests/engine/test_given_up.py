"""Requests that the draft cannot serve: once more, and then no more."""

from __future__ import annotations

from sglang_mirror.engine.request import Request
from sglang_mirror.protocol.messages import Beat, Close, Failed, Open, Work
from tests.engine.line import PROMPT, READY, Line, commit

PATIENCE_MS = 5000


def test_a_request_given_up_twice_is_not_asked_again(line: Line) -> None:
    line.client.open("a", PROMPT)
    request = line.client.committed("a", [*PROMPT, 8])
    line.peer.hear(Open)
    line.peer.say(Failed(request.stamp, "too long"))
    line.until(lambda: request.failures == 1)
    line.client.committed("a", [*PROMPT, 8])
    assert line.peer.hear(Open).stamp.generation == 2
    line.peer.say(Failed(request.stamp, "too long"))
    line.until(lambda: request.failures == 2)
    line.client.committed("a", [*PROMPT, 8, 9])
    line.client.open("a", [*PROMPT, 8, 9, 10])  # taken back by SGLang, it is prefilled again
    assert line.peer.hears_nothing(Open)
    assert line.client.current("a", 6) is request  # nor are its tokens put together for nobody
    assert line.client.collect([request], PATIENCE_MS) == 0.0


def test_one_failed_forward_counts_once(line: Line, request_: Request) -> None:
    """What was said of a request before its draft's word of failure had come fails there as well."""
    commit(line, request_, 0, 10)
    line.peer.say(Failed(request_.stamp, "out of memory"))
    line.peer.say(Failed(request_.stamp, "the draft does not hold this request"))
    line.peer.say(Beat(1, Work(9.0, 4, 9)))
    line.until(lambda: line.client.counters.busy_ms == 9.0)
    assert request_.failures == 1
    assert line.client.committed("a", [*PROMPT, 8, 10]) is request_
    assert line.peer.hear(Open).stamp.generation == 2


def test_a_text_that_is_too_long_for_the_draft_is_not_sent(line: Line) -> None:
    """Nor is it with every chunk of the prompt."""
    long = [1] * (READY.max_len + 1)
    for chunk in (50, 100, len(long)):
        line.client.open("a", long[:chunk])
    assert line.peer.hear(Open).stamp.committed_len == 50
    assert line.peer.hear(Open).stamp.committed_len == 100
    request = line.client.committed("a", [*long, 1])
    assert line.peer.hear(Close).requests == (request.number,)  # its first chunks hold no memory there
    assert line.peer.hears_nothing(Open)
    assert line.client.collect([request], PATIENCE_MS) == 0.0
