"""What counts as the same text, and which tokens came out of which window."""

from __future__ import annotations

from typing import Any

import pytest

from sglang_mirror.bench.client import Completion
from sglang_mirror.bench.identity import comparison, first_difference
from sglang_mirror.bench.law import groups_of
from sglang_mirror.errors import MirrorError


def answer(*tokens: int) -> Completion:
    return Completion("", len(tokens), 1.0, {}, tokens)


@pytest.mark.parametrize(
    ("ours", "theirs", "position"),
    [([1, 2], [1, 2], None), ([1, 3], [1, 2], 1), ([1], [1, 2], 1), ([], [], None), ([9, 2], [1, 2], 0)],
)
def test_first_difference(ours: list[int], theirs: list[int], position: int | None) -> None:
    assert first_difference(ours, theirs) == position


def test_comparison() -> None:
    found = comparison([answer(1, 2, 3), answer(1, 9)], [answer(1, 2, 3), answer(1, 2)])
    assert found["identical_share"] == 0.5
    assert found["tokens_before_divergence_share"] == pytest.approx(4 / 5)
    assert found["divergences"] == [{"prompt": 1, "position": 1}]


def step(
    committed_len: int, committed: list[int], *, window: bool = True, source: str | None = None
) -> dict[str, Any]:
    return {
        "committed_len": committed_len,
        "committed": committed,
        "window": [0, 1] if window else None,
        "source": source,
    }


def test_groups() -> None:
    """Prompt of 3; the step after a hit verifies a branch; the last step commits more than was asked for."""
    steps = [
        step(4, [11, 12], source="draft"),
        step(6, [13]),
        step(7, [14], window=False),
        step(8, [15, 16, 17]),
    ]
    assert groups_of(3, [10, 11, 12, 13, 14, 15, 16], steps) == (
        "prefill",
        "fresh, node 0",
        "fresh, node 1",
        "hit, node 0",
        "none, node 0",
        "fresh, node 0",
        "fresh, node 1",
    )


def test_a_trace_of_something_else_is_refused() -> None:
    with pytest.raises(MirrorError, match="token 9"):
        groups_of(3, [10, 11], [step(4, [9])])
