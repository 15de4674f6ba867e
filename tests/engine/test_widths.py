"""Graphs for plain steps that cannot be had: all ranks go without, or the server ends; none waits."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sglang_mirror.core.growth import WindowShape
from sglang_mirror.engine import widths
from sglang_mirror.engine.widths import ROOT_ALONE, CapturedWidths
from sglang_mirror.errors import MirrorError

SHAPE = WindowShape.chain(3)
FULL = "Capture cuda graph failed: CUDA out of memory. Tried to allocate 2.00 GiB.\nPossible solutions: ..."


def group(*others: str | None, free: float = 9.0) -> Any:
    """One of several ranks; the others have met with these problems, and have so much memory free, GiB."""

    def gather(mine: Any) -> list[Any]:
        return [mine, *([free] * len(others) if isinstance(mine, float) else others)]

    return SimpleNamespace(world_size=1 + len(others), rank_in_group=0, all_gather_object=gather)


def built(monkeypatch: pytest.MonkeyPatch, ranks: Any, problem: str | None) -> CapturedWidths:
    def capture(_runner: Any, _num_nodes: int) -> tuple[str, str]:
        if problem is not None:
            raise RuntimeError(problem)
        return "attention", "graphs"

    monkeypatch.setattr(widths, "_captured", capture)
    found = CapturedWidths(None, SHAPE)
    found.build(ranks)
    return found


def test_a_step_without_windows_has_graphs_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert built(monkeypatch, group(None), None).of([None, None]) == ROOT_ALONE


@pytest.mark.parametrize(
    ("others", "problem"), [((), FULL), ((), "no such op"), (("no such op",), "no such op"), (("x",), None)]
)
def test_without_them_it_is_padded_on_every_rank(
    monkeypatch: pytest.MonkeyPatch, others: tuple[str, ...], problem: str | None
) -> None:
    assert built(monkeypatch, group(*others), problem).of([None, None]) == SHAPE


def test_where_one_rank_has_little_memory_none_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    assert built(monkeypatch, group(None, free=0.5), FULL).of([None, None]) == SHAPE


def test_one_rank_without_memory_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MirrorError, match=r"rank 0 .*out of memory.*lower --mem-fraction-static"):
        built(monkeypatch, group(None), FULL)
