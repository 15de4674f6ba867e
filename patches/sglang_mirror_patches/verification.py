"""The plain server's text from SGLang's verification: exact penalties, and its own way to sample."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any


def around_eagle_sample(
    original: Callable[..., Any], verify_input: Any, batch: Any, logits_output: Any, *args: Any, **kwargs: Any
) -> Any:
    """Penalise node by node before SGLang does, and have it sample as it does plainly."""
    from sglang_mirror.engine.algorithm import MirrorAlgorithm  # noqa: PLC0415 - only inside SGLang
    from sglang_mirror.engine.penalties import penalise  # noqa: PLC0415 - torch
    from sglang_mirror.engine.sampling import drawn, is_ours  # noqa: PLC0415 - torch

    drawing: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if isinstance(batch.spec_algorithm, MirrorAlgorithm) and not batch.forward_mode.is_idle():
        logits, laid = logits_output.next_token_logits, verify_input.laid
        penalise(batch, laid.tokens, laid.parents, verify_input.unread, logits)
        if is_ours(logits.device) and not batch.sampling_info.is_all_greedy:
            drawing = drawn(batch, verify_input, logits)
    with drawing:
        return original(verify_input, batch, logits_output, *args, **kwargs)


def around_walk(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The greedy walk over drawn tokens, while there are any; other algorithms' walks are as they are."""
    from sglang_mirror.engine.sampling import around_walk as ours  # noqa: PLC0415 - torch

    return ours(original, *args, **kwargs)
