"""Room behind the context's end for the slots that a step takes in advance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def with_room(original: Callable[..., int], *args: Any, **kwargs: Any) -> int:
    """Columns of a request's row behind the context: as many as SGLang reserves before each step, at least.

    It has 4 and the nodes of a window, and reserves twice `max(steps * topk, nodes)`: near the context's end
    a wide window's slots would be written into the next request's row.
    """
    found = original(*args, **kwargs)
    from sglang_mirror.engine.host import get_alloc_reserve_per_decode, get_spec  # noqa: PLC0415
    from sglang_mirror.engine.settings import asked_for  # noqa: PLC0415 - only inside SGLang

    return max(found, get_alloc_reserve_per_decode(*args, **kwargs)) if asked_for(get_spec()) else found
