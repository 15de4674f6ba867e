"""The static forward with merged kernels: a layer is five launches instead of eight.

Of few rows a forward takes as long as its launches. Here the projections before and behind attention norm
their states, and do what follows them as well; attention adds up its own parts. Two products remain as they
are. Not measured on a GPU yet: the backend `torch-fused`, beside `torch`.
"""

from __future__ import annotations

import torch

from sglang_mirror.draft.backends.llama_loop import LlamaLoop
from sglang_mirror.draft.backends.static_llama import StaticLlama
from sglang_mirror_kernels.rows import Layer, TreeRows
from sglang_mirror_kernels.select import project_gate, project_rotate, tree_attention

# A head's sums have to stay in one program's registers.
MOST_HEAD_DIM = 256


class FusedLlama(StaticLlama):
    """As `StaticLlama`.

    Args:
        loop: whose weights it uses.
        max_len: positions are below it.
        num_kv_heads: of the model.
        num_rows: of one forward, at most.

    Raises:
        ValueError: the model's heads are too large.
    """

    def __init__(self, loop: LlamaLoop, max_len: int, num_kv_heads: int, *, num_rows: int) -> None:
        if loop.head_dim > MOST_HEAD_DIM:
            raise ValueError(f"its heads have {loop.head_dim} channels, more than {MOST_HEAD_DIM}")
        super().__init__(loop, max_len, num_kv_heads)
        # How many of attention's parts are there, of each block of rows and KV head. Every launch leaves
        # zeros and no two run at once, so all layers and graphs share them.
        counts = num_rows * num_kv_heads
        self._arrived = torch.zeros(counts, dtype=torch.int32, device=loop.embedding.device)

    def _layer(
        self, index: int, hidden: torch.Tensor, positions: torch.Tensor, rows: TreeRows, memory: torch.Tensor
    ) -> None:
        """[rows, width], in place."""
        loop, layer = self._loop, self._loop.layers[index]
        place, qkv, both = Layer(index, len(loop.layers), self._num_kv_heads), layer.qkv, layer.gate_up
        query = project_rotate(
            *(hidden, qkv.weight, qkv.bias, layer.qk_norm, self._rope, positions),
            *(memory, rows, place),
            eps=loop.eps,
        )
        attended = tree_attention(query, memory, rows, place, scale=layer.scale, arrived=self._arrived)
        layer.o.add_to(hidden, attended.flatten(1))
        layer.down.add_to(hidden, project_gate(hidden, both.weight, both.bias, eps=loop.eps))
