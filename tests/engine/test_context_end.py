"""Page tables hold the windows that reach beyond the context's end, in what SGLang calls a backend."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sglang_mirror.engine.context_end import make_room

CONTEXT, NODES = 2048, 9


def tabled(page_size: int = 1) -> Any:
    """A backend with page tables, as SGLang's fa3."""
    return SimpleNamespace(max_context_len=CONTEXT, max_num_pages=CONTEXT // page_size, page_size=page_size)


@pytest.mark.parametrize(("page_size", "pages"), [(1, CONTEXT + 2 * NODES), (64, CONTEXT // 64 + 1)])
def test_a_row_has_room_for_two_windows_behind_the_end(page_size: int, pages: int) -> None:
    backend = tabled(page_size)
    make_room(backend, NODES)
    assert (backend.max_context_len, backend.max_num_pages) == (CONTEXT + 2 * NODES, pages)


def test_those_who_do_the_work_have_it_once() -> None:
    both, inner = tabled(), tabled()
    make_room(SimpleNamespace(prefill_backend=both, decode_backend=both), NODES)
    make_room(SimpleNamespace(full_attn_backend=inner, max_context_len=CONTEXT), NODES)
    assert both.max_num_pages == inner.max_num_pages == CONTEXT + 2 * NODES


def test_others_stay_as_they_are() -> None:
    """Without tables there is nothing to widen; FlashInfer's `prefill_backend` is a name."""
    backend = SimpleNamespace(prefill_backend="fa2", max_context_len=CONTEXT)
    make_room(backend, NODES)
    assert backend.max_context_len == CONTEXT
