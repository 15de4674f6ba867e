"""Graphs in all sizes: made anew for more, and where that fails as they were."""

from __future__ import annotations

import random
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from sglang_mirror.draft.backends.buckets import Bucket, Buckets
from sglang_mirror.draft.backends.packing import SEEN, Packed
from tests.draft.test_graphed import Pair, Request
from tests.draft.tiny import make

CPU = torch.device("cpu")


def test_room_is_made_before_it_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both, picker = (
        Pair(make("llama", tmp_path, num_hidden_layers=1), monkeypatch, streams=2),
        random.Random(4),
    )
    made, make_all = [], Buckets.make

    def makes(buckets: Buckets, num_words: int, num_candidates: int) -> None:
        made.append(num_candidates)
        if num_candidates == 20:
            raise RuntimeError("out of memory")
        make_all(buckets, num_words, num_candidates)

    monkeypatch.setattr(Buckets, "make", makes)
    both.graphed.prepare(9, 0)
    assert made == []
    both.graphed.prepare(12, 0)
    assert made == [12, 12]  # the rows', and their streams'
    with pytest.raises(RuntimeError, match="out of memory"):
        both.graphed.prepare(20, 0)
    assert made == [12, 12, 20, 12]
    request = Request((both.graphed.new_cache(), both.eager.new_cache()))
    both.forward([request.segments(picker, 5, prompt=True)], 12)
    assert len(made) == 4
    both.graphed.prepare(12, 400)  # with two streams as many as 1,200
    assert both.graphed._main.num_words == 32
    assert len(made) == 6


def test_a_request_that_ends_leaves_no_kv_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both, picker = Pair(make("llama", tmp_path), monkeypatch, streams=2), random.Random(1)
    request = Request((both.graphed.new_cache(), both.eager.new_cache()))
    there = [weakref.ref(cache) for cache in request.caches]
    both.forward([request.segments(picker, 5, prompt=True)], 3)
    both.forward([request.segments(picker, 3, prompt=False)], 3)
    assert both.num_ahead
    del request
    assert [each() for each in there] == [None, None]


class Captured(Buckets):
    """Has no memory for more than `most` candidates a row, nor for two sets of graphs at once."""

    most, held = 3, weakref.WeakSet[Bucket]()

    def make(self, num_words: int, num_candidates: int) -> None:
        super().make(num_words, num_candidates)
        self.held.update(made := self.buckets)
        if num_candidates > self.most or len(self.held) > len(made):
            self.buckets = []
            raise torch.OutOfMemoryError(f"no memory for {num_candidates}")


def one_row(buckets: Buckets) -> int:
    """Forwards that a row takes."""
    packed = Packed(np.zeros((SEEN + 1, 1), np.int64), [1], [0])
    return sum(1 for _ in buckets.run(packed, 1))


def test_what_was_there_is_made_anew_once_the_memory_is_free() -> None:
    buckets = Captured(lambda _bucket: None, (1, 2), num_candidates=3, device=CPU)
    with pytest.raises(RuntimeError, match="no memory for 4"):
        buckets.make_room(1, 4)
    assert buckets.num_candidates == 3
    assert one_row(buckets) == 1


def test_where_nothing_can_be_made_anew_the_next_forward_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    buckets = Captured(lambda _bucket: None, (1, 2), num_candidates=3, device=CPU)
    monkeypatch.setattr(Captured, "most", 2)
    with pytest.raises(RuntimeError, match="no memory for 3"):
        buckets.make_room(1, 4)
    with pytest.raises(RuntimeError, match="no memory for 3"):
        one_row(buckets)
    monkeypatch.setattr(Captured, "most", 3)
    assert one_row(buckets) == 1
