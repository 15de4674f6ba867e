"""What SGLang can be asked for and mirror cannot serve: each with its reason and a remedy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# Settings of a draft that SGLang runs itself. Its attention backend is not refused: SGLang may choose one
# unasked.
OF_SGLANGS_DRAFT = "mirror's draft is a process of its own, which --mirror-draft-* are for; serve without it"


def _given(value: Any) -> bool:
    return value is not None


# Field of SGLang's settings, whether a value of it is refused, why and what to do.
REFUSED: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("enable_lora", bool, "LoRA adapters change the target request by request; serve without --enable-lora"),
    ("lora_paths", bool, "LoRA adapters change the target request by request; serve without --lora-paths"),
    (
        "pp_size",
        lambda size: (size or 1) > 1,
        "pipeline parallelism has no one layer loop to tap; use --pp-size 1",
    ),
    (
        "tokenizer_worker_num",
        lambda num: (num or 1) > 1,
        "SGLang's tokenizer processes load no plugins and do not know mirror; use --tokenizer-worker-num 1",
    ),
    ("enable_dp_attention", bool, "data-parallel attention does not work with mirror yet; serve without it"),
    ("enable_pdmux", bool, "SGLang prefills then without its speculative worker; serve without it"),
    ("enable_mixed_chunk", bool, "prefill and verification cannot share a batch; serve without it"),
    ("enable_torch_compile", bool, "compilation would trace through the early exit; serve without it"),
    (
        "cuda_graph_backend_decode",
        lambda backend: backend not in (None, "full", "disabled"),
        "the early exit is captured in full graphs only; give full or disabled",
    ),
    ("speculative_adaptive", bool, "it switches between SGLang's own drafts; serve without it"),
    (
        "speculative_use_rejection_sampling",
        bool,
        "mirror verifies by exact match and ships no draft probabilities; serve without it",
    ),
    (
        "speculative_accept_threshold_single",
        lambda threshold: threshold not in (None, 1.0),
        "mirror accepts the target's own tokens only; serve without it",
    ),
    (
        "speculative_accept_threshold_acc",
        lambda threshold: threshold not in (None, 1.0),
        "mirror accepts the target's own tokens only; serve without it",
    ),
    (
        "speculative_draft_model_revision",
        lambda revision: revision not in (None, "main"),
        "the draft process loads the main one; give --speculative-draft-model-path a folder of that revision",
    ),
    ("speculative_draft_load_format", _given, OF_SGLANGS_DRAFT),
    ("speculative_draft_kv_cache_dtype", _given, OF_SGLANGS_DRAFT),
    ("speculative_draft_window_size", _given, OF_SGLANGS_DRAFT),
    ("speculative_token_map", _given, OF_SGLANGS_DRAFT),
    (
        "enable_custom_logit_processor",
        bool,
        "SGLang's verification does not call custom processors; serve without it",
    ),
    (
        "enable_return_hidden_states",
        bool,
        "SGLang's verification keeps none: an answer would have its prompt's only; serve without it",
    ),
    (
        "enable_streaming_session",
        bool,
        "after a verification SGLang takes a turn's last token for computed, and the next turn's text is "
        "wrong; serve without it",
    ),
    (
        "rl_on_policy_target",
        bool,
        "sampled tokens would be drawn from other numbers than the plain server's; serve without it",
    ),
    (
        "disaggregation_mode",
        lambda mode: mode not in (None, "null"),
        "disaggregated prefill is not supported yet; serve without it",
    ),
)
