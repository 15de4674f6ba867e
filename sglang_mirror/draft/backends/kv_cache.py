"""One request's keys and values, all layers in one tensor that grows by a quarter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sglang_mirror_kernels.select import promote

# Slots come in blocks of so many.
BLOCK = 256


@dataclass(frozen=True, slots=True)
class KVShape:
    """What a model's KV looks like."""

    num_layers: int
    num_kv_heads: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device


class TensorCache:
    """Keys and values by slot.

    Args:
        shape: of a slot's.
        num_slots: to make room for at once.

    Attributes:
        kv: [2, layers, kv heads, capacity, head dim]; keys first.
        keys: views of it by layer, [kv heads, capacity, head dim].
        values: likewise.
        positions: the place in the text of what each slot holds, for sliding windows.
    """

    def __init__(self, shape: KVShape, num_slots: int = 0) -> None:
        self._shape = shape
        self.positions: list[int] = []
        self._hold(self._empty(_in_blocks(num_slots)))

    def _hold(self, kv: torch.Tensor) -> None:
        self.kv = kv
        self.keys, self.values = kv[0].unbind(), kv[1].unbind()

    def _empty(self, capacity: int) -> torch.Tensor:
        shape = self._shape
        return torch.zeros(
            (2, shape.num_layers, shape.num_kv_heads, capacity, shape.head_dim),
            dtype=shape.dtype,
            device=shape.device,
        )

    def reserve(self, start: int, positions: Sequence[int]) -> None:
        """The slots from `start` on will be written for `positions`."""
        self.make_room(start, start + len(positions))
        self.positions[start:] = positions

    def make_room(self, used: int, needed: int) -> None:
        """So many slots are `needed`; those below `used` keep what they hold."""
        capacity = self.kv.shape[3]
        if needed <= capacity:
            return
        grown = self._empty(_in_blocks(max(needed, capacity + capacity // 4)))
        grown[:, :, :, :used] = self.kv[:, :, :, :used]
        self._hold(grown)

    def move(self, slots: Sequence[int], start: int) -> None:
        """Gather what is in `slots` into the slots from `start` on, all layers at once."""
        self.positions[start:] = [self.positions[slot] for slot in slots]
        if not slots:
            return
        with torch.inference_mode():
            index = torch.tensor(slots, device=self.kv.device)
            promote(self.kv, index, start)


def _in_blocks(num_slots: int) -> int:
    return max(-(-num_slots // BLOCK), 1) * BLOCK
