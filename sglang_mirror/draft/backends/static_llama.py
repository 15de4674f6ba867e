"""The Llama family's forward with shapes that do not depend on what is asked: a CUDA graph can hold it.

On a GPU the loop of `llama_loop` waits for its host, which launches some 20 operations a layer and more for
each request. Here a layer is eight launches whatever the requests.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from sglang_mirror.draft.backends.linear import Linear
from sglang_mirror.draft.backends.llama_loop import LlamaLoop
from sglang_mirror.draft.backends.norm import rms_normed
from sglang_mirror_kernels.rows import Layer, TreeRows
from sglang_mirror_kernels.select import gate, rotate, tree_attention


class StaticLlama:
    """Runs what a `LlamaLoop` without sliding windows runs, over rows of many requests.

    Args:
        loop: whose weights it uses.
        max_len: positions are below it.
        num_kv_heads: of the model.
    """

    def __init__(self, loop: LlamaLoop, max_len: int, num_kv_heads: int) -> None:
        self._loop = loop
        self._rope = loop.rope_table(max_len + loop.num_streams)
        self._num_kv_heads = num_kv_heads

    def logits(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        rows: TreeRows,
        memory: torch.Tensor,
        *,
        out: torch.Tensor,
        forks: torch.Tensor,
    ) -> None:
        """Logits of all rows; their KV is written.

        Args:
            tokens: int64 [rows].
            positions: their places in the text, int64 [rows].
            rows: where their requests' KV is and what they see.
            memory: what `rows.base` counts from.
            out: where the logits go, [rows, V].
            forks: where the states go that streams leave the rows with, [rows, width]; empty without streams.
        """
        loop = self._loop
        hidden = F.embedding(tokens, loop.embedding)  # [rows, width]
        for index in range(len(loop.layers)):
            if index == loop.first_with_streams:
                forks.copy_(hidden)
            self._layer(index, hidden, positions, rows, memory)
        self._head(hidden, out)

    def ahead(
        self,
        states: torch.Tensor,
        positions: torch.Tensor,
        rows: TreeRows,
        memory: torch.Tensor,
        *,
        out: torch.Tensor,
    ) -> None:
        """Logits of streams; their KV is written.

        Args:
            states: of the rows that they follow, as `logits` left them, [s, width].
            positions: the streams' places in the text, int64 [s * num_streams], row by row.
            rows: as of `logits`, for the streams.
            memory: what `rows.base` counts from.
            out: where the logits go, [s * num_streams, V].
        """
        loop = self._loop
        hidden = (states[:, None] + loop.stream_embeddings).flatten(0, 1)
        for index in range(loop.first_with_streams, len(loop.layers)):
            self._layer(index, hidden, positions, rows, memory)
        self._head(hidden, out)

    def _layer(
        self, index: int, hidden: torch.Tensor, positions: torch.Tensor, rows: TreeRows, memory: torch.Tensor
    ) -> None:
        """[rows, width], in place."""
        loop, layer = self._loop, self._loop.layers[index]
        place = Layer(index, len(loop.layers), self._num_kv_heads)
        qkv, states = self._projected(layer.qkv, hidden)
        qkv = qkv.view(len(hidden), -1, loop.head_dim)
        query = rotate(
            qkv, layer.qk_norm, self._rope, positions, memory, rows, place, eps=loop.eps, states=states
        )
        attended = tree_attention(query, memory, rows, place, scale=layer.scale)
        layer.o.add_to(hidden, attended.flatten(1))
        both, states = self._projected(layer.gate_up, hidden)
        layer.down.add_to(hidden, gate(both, eps=loop.eps, states=states))

    def _projected(self, linear: Linear, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """A projection of the normed states; or of the states, and these, if its reader may norm them.

        That spares a launch. Without the norm, float16 might overflow, and a bias would be scaled.
        """
        if linear.bias is not None or hidden.dtype == torch.float16:
            return linear(rms_normed(hidden, self._loop.eps)), None
        return linear(hidden), hidden

    def _head(self, hidden: torch.Tensor, out: torch.Tensor) -> None:
        loop = self._loop
        loop.head.into(out, F.rms_norm(hidden, hidden.shape[-1:], loop.norm, loop.eps))
