"""Exact penalties where SGLang's verification relaxes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def around_eagle_sample(
    original: Callable[..., Any], verify_input: Any, batch: Any, logits_output: Any, *args: Any, **kwargs: Any
) -> Any:
    """Penalise node by node before SGLang samples; its own penalties are then nothing."""
    from sglang_mirror.engine.algorithm import MirrorAlgorithm  # noqa: PLC0415 - only inside SGLang
    from sglang_mirror.engine.penalties import penalise  # noqa: PLC0415 - torch

    if isinstance(batch.spec_algorithm, MirrorAlgorithm) and not batch.forward_mode.is_idle():
        tokens = verify_input.draft_token.view(-1, verify_input.draft_token_num)
        penalise(
            batch,
            tokens,
            verify_input.window_parents,
            verify_input.unread,
            logits_output.next_token_logits,
        )
    return original(verify_input, batch, logits_output, *args, **kwargs)
