"""What the target's own norm and head say of each node: by one rank, and by all ranks together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from sglang_mirror_kernels.parts import merge_parts, part_topk
from sglang_mirror_kernels.select import exit_topk

# Logits [N, V'] of hidden states [N, width] of a batch.
Reader = Callable[[torch.Tensor, Any], torch.Tensor]
# Token ids, most probable first, and log-probabilities, [N, kappa] each.
TopKappa = tuple[torch.Tensor, torch.Tensor]


class ExitHead:
    """Reads each node's candidates, from a head of which this rank may have a part.

    What a rank finds is int32 [N, width]: of each node the candidates' token ids and the bits of their
    log-probabilities; of a part's, ids, logits and its log-sum-exp (`sglang_mirror_kernels.parts`).

    Args:
        read: the target's norm and head, this rank's part of it.
        kappa: candidates a node.
        start: token id of the first logit.
        num_ranks: that the head is split over.

    Attributes:
        width: int32 numbers of a node.
    """

    def __init__(self, read: Reader, kappa: int, *, start: int = 0, num_ranks: int = 1) -> None:
        self._read, self._kappa, self._start = read, kappa, start
        self._is_split = num_ranks > 1
        self.width = 2 * kappa + self._is_split

    def find(self, hidden: torch.Tensor, batch: Any, children: torch.Tensor) -> torch.Tensor:
        """This rank's candidates, int32 [N, width]; asks nothing of the other ranks.

        Args:
            hidden: of the nodes, [N, model width].
            batch: SGLang's, whose nodes they are.
            children: tokens of each node's children, padded with -1, [N, c].
        """
        logits = self._read(hidden, batch)
        if self._is_split:
            tokens, *rest = part_topk(logits, children, self._kappa, self._start)
        else:
            tokens, *rest = exit_topk(logits, children, self._kappa)
        return torch.cat((tokens.int(), *(values.view(torch.int32) for values in rest)), 1)

    def merge(self, found: torch.Tensor) -> TopKappa:
        """What all ranks found, together.

        Args:
            found: by each, int32 [ranks, N, width].

        Returns:
            Token ids, most probable first, and log-probabilities, [N, kappa] each.
        """
        kappa = self._kappa
        tokens, values = found[..., :kappa], _floats(found[..., kappa : 2 * kappa])
        if not self._is_split:
            return tokens[0], values[0]
        return merge_parts(tokens, values, _floats(found[..., 2 * kappa :]))


def _floats(bits: torch.Tensor) -> torch.Tensor:
    return bits.contiguous().view(torch.float32)
