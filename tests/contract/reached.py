"""What we reach through objects that SGLang hands us: no import tells their classes, so this list does."""

from __future__ import annotations

_BATCH = "sglang.srt.managers.schedule_batch"
_FORWARD = "sglang.srt.model_executor.forward_batch_info"

REACHED: dict[str, tuple[str, ...]] = {
    f"{_BATCH}.ScheduleBatch": (
        "forward_mode",
        "is_extend_in_batch",
        "reqs",
        "sampling_info",
        "seq_lens",
        "seq_lens_cpu",
        "spec_algorithm",
        "spec_info",
    ),
    f"{_BATCH}.Req": (
        "finished",
        "is_retracted",
        "multimodal_inputs",
        "origin_input_ids",
        "origin_input_ids_unpadded",
        "output_ids",
        "rid",
        "sampling_params",
    ),
    f"{_FORWARD}.ForwardMode": ("is_extend", "is_idle"),
    "sglang.srt.managers.utils.GenerationBatchResult": (
        "accept_lens",
        "new_seq_lens",
        "next_draft_input",
        "next_token_ids",
        "speculative_num_draft_tokens",
    ),
    "sglang.srt.managers.tp_worker.TpModelWorker": (
        "forward_batch_generation",
        "model_runner",
        "update_weights_from_disk",
        "update_weights_from_ipc",
        "update_weights_from_tensor",
    ),
    "sglang.srt.model_executor.model_runner.ModelRunner": (
        "_get_attention_backend",
        "attn_backend",
        "decode_cuda_graph_runner",
        "init_new_workspace",
        "model",
        "model_config",
    ),
    "sglang.srt.model_executor.model_runner_components.cuda_graph_setup.GraphCapture": ("runner",),
    "sglang.srt.layers.attention.base_attn_backend.AttentionBackend": ("verify_mask",),
    "sglang.srt.layers.attention.verify_mask.VerifyMask": ("buffer", "fits"),
    "sglang.srt.runtime_context.RuntimeContext": ("override",),
    **{
        f"sglang.srt.layers.attention.{name}": ("max_context_len", "max_num_pages", "page_size")
        for name in (
            "flashattention_backend.FlashAttentionBackend",
            "trtllm_mha_backend.TRTLLMHAAttnBackend",
        )
    },
    "sglang.srt.configs.model_config.ModelConfig": ("vocab_size",),
    "sglang.srt.speculative.base_spec_worker.BaseSpecWorker": (
        "req_to_token_pool",
        "target_worker",
        "token_to_kv_pool_allocator",
    ),
    "sglang.srt.speculative.eagle_info.EagleDraftInput": ("bonus_tokens",),
    "sglang.srt.speculative.eagle_info.EagleVerifyInput": ("draft_token_num",),
    "sglang.srt.layers.logits_processor.LogitsProcessor": (
        "_compute_lm_head",
        "_get_logits",
        "do_tensor_parallel_all_gather",
    ),
    "sglang.srt.layers.logits_processor.LogitsProcessorOutput": ("next_token_logits",),
    "sglang.srt.layers.vocab_parallel_embedding.VocabParallelEmbedding": ("shard_indices", "tp_size"),
    "sglang.srt.layers.vocab_parallel_embedding.VocabParallelEmbeddingShardIndices": (
        "org_vocab_end_index",
        "org_vocab_start_index",
    ),
    "sglang.srt.distributed.parallel_state.GroupCoordinator": (
        "all_gather_object",
        "broadcast_object",
        "gather",
        "rank_in_group",
        "world_size",
    ),
    "sglang.srt.sampling.sampling_batch_info.SamplingBatchInfo": (
        "acc_additive_penalties",
        "acc_scaling_penalties",
    ),
    "sglang.srt.sampling.sampling_params.SamplingParams": (
        "frequency_penalty",
        "max_new_tokens",
        "min_new_tokens",
        "presence_penalty",
        "repetition_penalty",
    ),
    "sglang.srt.managers.scheduler.Scheduler": ("draft_worker",),
    "sglang.srt.managers.io_struct.GetInternalStateReqOutput": ("internal_state",),
    "sglang.srt.entrypoints.http_server._GlobalState": ("scheduler_info",),
    "sglang.srt.model_loader.loader.DefaultModelLoader.Source": ("model_or_path",),
}

# The same for the torch-only platform.
REACHED_BY_PLATFORM: dict[str, tuple[str, ...]] = {
    f"{_FORWARD}.ForwardBatch": (
        "extend_prefix_lens",
        "extend_seq_lens",
        "forward_mode",
        "out_cache_loc",
        "req_pool_indices",
        "seq_lens",
        "spec_info",
    ),
    f"{_FORWARD}.ForwardMode": ("is_decode", "is_idle", "is_target_verify"),
    "sglang.srt.layers.radix_attention.RadixAttention": (
        "attn_type",
        "is_cross_attention",
        "layer_id",
        "logit_cap",
        "qk_head_dim",
        "scaling",
        "sliding_window_size",
        "tp_k_head_num",
        "tp_q_head_num",
    ),
    "sglang.srt.layers.attention.torch_native_backend.TorchNativeAttnBackend": (
        "req_to_token_pool",
        "swa_out_cache_loc",
        "token_to_kv_pool",
        "use_sliding_window_kv_pool",
    ),
    "sglang.srt.mem_cache.memory_pool.MHATokenToKVPool": (
        "get_key_buffer",
        "get_value_buffer",
        "set_kv_buffer",
        "use_native_move_kv_cache",
        "_kv_copy_config",
    ),
    "sglang.srt.speculative.draft_utils.DraftBackendFactory": (
        "draft_attn_backend",
        "draft_model_runner",
        "speculative_num_steps",
        "topk",
    ),
    "sglang.srt.speculative.eagle_info.EagleVerifyInput": ("custom_mask", "draft_token_num", "positions"),
    "sglang.srt.sampling.sampling_batch_info.SamplingBatchInfo": (
        "max_top_k",
        "min_ps",
        "need_min_p_sampling",
        "need_top_k_sampling",
        "need_top_p_sampling",
        "sampling_seed",
        "top_ks",
        "top_ps",
    ),
}
