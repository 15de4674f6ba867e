"""Long prompts: in chunks that hold up neither windows nor beats."""

from __future__ import annotations

import time
from collections.abc import Sequence

from sglang_mirror.draft.backends.base import Said, Segment
from sglang_mirror.draft.backends.scripted import ScriptedBackend, hash_script
from sglang_mirror.draft.scheduler import Limits
from sglang_mirror.protocol.messages import FreshWindow
from tests.draft.draft_playing import VOCAB, Player, commit, hello, kinds, opening, player

A = b"a"


def test_a_long_prompt_stalls_nobody() -> None:
    limits = Limits(prefill_rows=50, shared_prefill_rows=10, forwards_between_prefills=6)
    playing = player(limits)
    playing.greet(A, hello(gamma=3))
    playing.say(A, opening(1, 5))
    playing.settle()
    playing.take(A)
    playing.say(A, opening(2, 1500))
    for length in range(6, 20):
        playing.say(A, commit(1, length, 7))
        forwards = 0
        before = playing.backend.num_rows  # type: ignore[attr-defined]
        while not any(isinstance(m, FreshWindow) for m in playing.heard[A]):
            assert playing.service.step()
            forwards += 1
        assert forwards <= 3
        rows = playing.backend.num_rows - before  # type: ignore[attr-defined]
        assert rows <= 3 + 1 + 50, "at most one chunk in a window's way"
        playing.take(A)
    assert 30 < playing.settle() < 200
    assert "FreshWindow" in kinds(playing.take(A))


class Laborious(ScriptedBackend):
    """Each row takes 4 ms, as those of a 0.6B draft do on one CPU thread."""

    longest_ms = 0.0

    def forward(self, segments: Sequence[Segment], num_candidates: int) -> list[list[Said]]:
        took_ms = 4.0 * sum(len(segment.tokens) for segment in segments)
        self.longest_ms = max(self.longest_ms, took_ms)
        time.sleep(took_ms / 1000)
        return super().forward(segments, num_candidates)


def test_a_prompt_on_a_slow_device_does_not_silence_the_draft() -> None:
    backend = Laborious(hash_script(VOCAB), vocab_size=VOCAB)
    playing = Player(backend)
    playing.greet(A, hello(gamma=2, roots="none"))
    playing.say(A, opening(1, 200))
    playing.settle()
    assert kinds(playing.take(A)) == ["FreshWindow"]
    assert backend.longest_ms <= 200.0


def test_what_is_prepared_during_the_prompt_gives_the_first_window_a_head_start() -> None:
    playing = player()
    playing.greet(A, hello(gamma=4))
    playing.say(A, opening(1, 300, window=False))
    playing.settle()
    assert playing.take(A) == []
    first = hash_script(VOCAB)([i % VOCAB for i in range(300)], 1).tokens[0]
    playing.say(A, commit(1, 301, first))
    assert kinds(playing.take(A)) == ["FreshWindow"]  # at once, without a forward


class Graphs(ScriptedBackend):
    """Computes 24 rows at once, and writes down how many it got."""

    rows_at_once = 24

    def __init__(self) -> None:
        super().__init__(hash_script(VOCAB), vocab_size=VOCAB)
        self.rows: list[tuple[int, int]] = []  # of rollouts, of prompts

    def forward(self, segments: Sequence[Segment], num_candidates: int) -> list[list[Said]]:
        counts = [0, 0]
        for segment in segments:
            counts[segment.positions[0] < 99] += len(segment.tokens)
        self.rows.append((counts[0], counts[1]))
        return super().forward(segments, num_candidates)


def beside_rollouts(budget: int) -> list[tuple[int, int]]:
    """Rows of the forwards in which a long prompt is computed beside another request's branches."""
    backend = Graphs()
    playing = Player(backend, Limits(rows=30, prefill_rows=32, shared_prefill_rows=32))
    playing.greet(A, hello(gamma=4, kappa=30, roots="draft", budget=budget))
    playing.say(A, opening(1, 100))
    while not playing.take(A):  # its window comes first
        assert playing.service.step()
    playing.say(A, opening(2, 90, window=False))
    backend.rows.clear()
    playing.settle()
    return [(rollouts, prompt) for rollouts, prompt in backend.rows if rollouts and prompt > 1]


def test_beside_rollouts_a_prompt_has_what_they_leave_of_a_graph() -> None:
    rows = beside_rollouts(6)
    assert (6, 18) in rows
    assert all(rollouts + prompt <= 24 for rollouts, prompt in rows)


def test_rollouts_that_fill_a_graph_do_not_keep_a_prompt_waiting() -> None:
    assert (24, 32) in beside_rollouts(24)
