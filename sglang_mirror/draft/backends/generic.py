"""Any decoder that attends through transformers' AttentionInterface, run as it is, with our attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AttentionInterface

from sglang_mirror.draft.backends.attention import TreeAttention

ATTENTION_NAME = "sglang_mirror_tree"


class GenericModel:
    """Runs the model's own modules; only attention is replaced.

    Args:
        model: from `AutoModelForCausalLM`; switched to our attention.
    """

    num_streams = 0

    def __init__(self, model: Any) -> None:
        self._model = model
        self._attention: TreeAttention | None = None
        AttentionInterface.register(ATTENTION_NAME, _attend)
        model.set_attn_implementation(ATTENTION_NAME)

    def logits(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        attention: TreeAttention,
        wanted: torch.Tensor,
        *,
        streamed: Sequence[int] = (),
    ) -> torch.Tensor:
        """As `TreeModel.logits`; there are no streams."""
        assert not streamed
        output = self._model(
            input_ids=tokens[None],
            position_ids=positions[None],
            use_cache=False,
            logits_to_keep=wanted,
            mirror_attention=attention,
        )
        logits: torch.Tensor = output.logits[0]
        return logits

    def ahead(self, rows: Sequence[int]) -> torch.Tensor:
        raise NotImplementedError("a model that is run as it is has no streams")

    def forget(self) -> None:
        """It keeps nothing."""


def _attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,  # noqa: ARG001 - transformers' signature
    **options: Any,
) -> tuple[torch.Tensor, None]:
    attention: TreeAttention = options["mirror_attention"]
    scale = options.get("scaling")
    out = attention(
        module.layer_idx,
        query[0],
        key[0],
        value[0],
        scale=query.shape[-1] ** -0.5 if scale is None else scale,
        sliding=bool(options.get("sliding_window") or getattr(module, "sliding_window", None)),
        softcap=options.get("softcap"),
    )
    return out[None], None
