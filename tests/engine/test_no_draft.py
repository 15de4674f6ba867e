"""What a request costs while there is no draft, and what the next draft hears of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sglang_mirror.protocol.messages import Open
from tests.engine.line import PROMPT, Line, commit


@pytest.mark.parametrize("has_been", [False, True])
def test_while_there_is_no_draft_a_text_is_gone_through_once(
    make_line: Callable[[float], Line], has_been: bool
) -> None:
    line = make_line(60.0)
    if has_been:
        line.meet()
    request = line.client.committed("a", PROMPT)
    line.client.lost()
    fresh = line.client.committed("b", PROMPT)
    for step in range(1, 4):
        assert commit(line, request, 0, 8) is commit(line, fresh, 0, 8) is False
        for rid, each in (("a", request), ("b", fresh)):
            assert line.client.current(rid, len(PROMPT) + step) is each
            assert line.client.current(rid, len(PROMPT)) is None
    line.meet()
    assert line.client.current("a", len(PROMPT) + 3) is line.client.current("b", len(PROMPT) + 3) is None
    line.client.committed("b", [*PROMPT, 8, 8, 8])
    opened = line.peer.hear(Open)
    while opened.rid == "a":  # the one that was lost had heard of it
        opened = line.peer.hear(Open)
    assert opened.tokens == (*PROMPT, 8, 8, 8)


@pytest.mark.parametrize(("rid", "said"), [("a\ud800b", "a?b"), ("x" * 5000, "x" * 200)])
def test_any_name_of_a_request_can_be_said(line: Line, rid: str, said: str) -> None:
    assert line.client.committed(rid, PROMPT).rid == rid
    assert line.peer.hear(Open).rid == said
