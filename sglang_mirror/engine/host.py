"""SGLang's names that the engine uses, all of them, in one place. Imported only where SGLang runs."""

from __future__ import annotations

from sglang.srt.distributed import get_tp_group
from sglang.srt.layers.logits_processor import LogitsMetadata
from sglang.srt.managers.overlap_utils import FutureMap
from sglang.srt.managers.utils import GenerationBatchResult
from sglang.srt.mem_cache.allocation_sizing import get_alloc_reserve_per_decode
from sglang.srt.model_executor.forward_batch_info import CaptureHiddenMode
from sglang.srt.model_executor.model_runner_components.cuda_graph_setup import capture_decode_graph
from sglang.srt.runtime_context import get_context, get_device, get_schedule, get_serving, get_spec
from sglang.srt.speculative.base_spec_worker import BaseSpecWorker
from sglang.srt.speculative.eagle_info import EagleDraftInput, EagleVerifyInput
from sglang.srt.speculative.eagle_utils import default_tree_mask_mode
from sglang.srt.speculative.eagle_worker_common import build_eagle_verify_input, run_eagle_verify

__all__ = [
    "BaseSpecWorker",
    "CaptureHiddenMode",
    "EagleDraftInput",
    "EagleVerifyInput",
    "FutureMap",
    "GenerationBatchResult",
    "LogitsMetadata",
    "build_eagle_verify_input",
    "capture_decode_graph",
    "default_tree_mask_mode",
    "get_alloc_reserve_per_decode",
    "get_context",
    "get_device",
    "get_schedule",
    "get_serving",
    "get_spec",
    "get_tp_group",
    "run_eagle_verify",
]
