"""The multi-head KV pool without its Triton copy kernel."""

from __future__ import annotations

from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool


class TorchKVPool(MHATokenToKVPool):  # type: ignore[misc]
    """SGLang's pool, moving rows by torch indexing.

    A tree window's accepted path is moved to the front of its block after every verification. The pool's own
    mover is a Triton kernel that is compiled, and run once, when the pool is made.
    """

    def _init_kv_copy_and_warmup(self) -> None:
        self._kv_copy_config = None
        self.use_native_move_kv_cache = True
