"""No draft KV pool where the draft lives elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def without_ours(original: Callable[..., Any], *, spec_algorithm: Any, **others: Any) -> Any:
    """None for mirror, whose worker has no draft runner to ask; else what SGLang finds."""
    from sglang_mirror.engine.algorithm import MirrorAlgorithm  # noqa: PLC0415 - only inside SGLang

    if isinstance(spec_algorithm, MirrorAlgorithm):
        return None
    return original(spec_algorithm=spec_algorithm, **others)
