"""Room that is made before it is needed: at Hello for what rows see, at Open for a request's KV."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from sglang_mirror.core.roots import Candidates, RootMode
from sglang_mirror.draft.backends.base import Said, Segment
from sglang_mirror.draft.backends.kv_cache import BLOCK, TensorCache
from sglang_mirror.draft.backends.load import load_torch
from sglang_mirror.draft.backends.scripted import ScriptedBackend
from sglang_mirror.draft.scheduler import Limits
from tests.draft.draft_playing import Playback, Player, hello, opening, scripted_models
from tests.draft.test_streaming import COUNT, SCRIPT, VOCAB, ahead
from tests.draft.tiny import make

Ahead = Callable[[Sequence[int], int], tuple[Candidates, ...]]
EVERY_ROW = Limits(rows=1000, rows_while_awaited=1000, prefill_rows=1)


class Measured(ScriptedBackend):
    """Keeps what was prepared for, and the most that a row saw behind its prefix."""

    seen = prepared = 0

    def prepare(self, num_candidates: int, num_seen: int) -> None:  # noqa: ARG002
        self.prepared = num_seen

    def forward(self, segments: Sequence[Segment], num_candidates: int) -> list[list[Said]]:
        self.seen = max(self.seen, *(bits.bit_length() for segment in segments for bits in segment.seen))
        return super().forward(segments, num_candidates)


def played(backend: Measured, **said: object) -> None:
    player, greeting = Player(backend, EVERY_ROW), hello(kappa=8, **said)  # type: ignore[arg-type]
    player.greet(b"t", greeting)
    playing = Playback(player, b"t", greeting, scripted_models(SCRIPT))
    playing.open([3, 1, 4, 1, 5])
    for _ in range(8):
        playing.step()


@pytest.mark.parametrize("roots", ["draft", "exit", "union"])
@pytest.mark.parametrize(("gamma", "topk", "nodes"), [(7, 1, 8), (4, 2, 9), (8, 4, 12), (3, 3, 14)])
def test_no_tree_outgrows_what_hello_prepared(roots: RootMode, gamma: int, topk: int, nodes: int) -> None:
    """Graphs would be captured anew, in the middle of service."""
    plain = Measured(SCRIPT, vocab_size=VOCAB)
    played(plain, gamma=gamma, topk=topk, nodes=nodes, roots=roots, budget=20)
    assert 100 < plain.seen <= plain.prepared


@pytest.mark.parametrize("wrong", [1, 2, 5])
def test_nor_with_what_streams_guess(wrong: int) -> None:
    for gamma, topk, nodes in ((7, 1, 8), (6, 3, 10)):
        guess: Ahead = ahead(wrong)  # type: ignore[assignment]
        streaming = Measured(SCRIPT, vocab_size=VOCAB, ahead=guess)
        played(streaming, gamma=gamma, topk=topk, nodes=nodes, roots="union", budget=16)
        assert streaming.seen <= streaming.prepared * (1 + COUNT)


def test_room_for_a_long_chunk_of_a_prompt() -> None:
    backend = Measured(SCRIPT, vocab_size=VOCAB)
    player = Player(backend, Limits(prefill_rows=700))
    player.greet(b"t", hello())
    assert backend.prepared == 700


@pytest.mark.parametrize(("topk", "nodes"), [(1, 5), (3, 9)])
def test_a_prompt_that_fills_its_blocks_does_not_move_while_a_window_is_awaited(
    topk: int, nodes: int, tmp_path: Path
) -> None:
    backend = load_torch(str(make("llama", tmp_path)), device="cpu", dtype="auto", threads=1)
    playing = Player(backend)
    playing.greet(b"t", hello(gamma=4, topk=topk, nodes=nodes, roots="draft", budget=12))
    playing.say(b"t", opening(1, BLOCK))
    cache = playing.service._targets[b"t"].sessions[1].cache
    assert isinstance(cache, TensorCache)
    there = cache.kv.data_ptr()
    playing.settle()
    assert len(cache.positions) > BLOCK
    assert cache.kv.data_ptr() == there
