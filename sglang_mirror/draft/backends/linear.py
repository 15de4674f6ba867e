"""Matrix products for few rows. On a CPU, the library that is faster for the number of rows at hand."""

from __future__ import annotations

import torch
import torch.nn.functional as F

# oneDNN's packed product has some 10 us of overhead and, from there on, 2.4 times MKL's speed. On one core of
# an AMD EPYC in float32, a 128 x 4096 head takes 92 us instead of 218 for 16 rows; 128 x 768 takes 15 us
# instead of 6 for one row.
PACKED_FROM = 600_000  # multiplications

# Weights above this are kept packed only: with so many bytes to read, both libraries wait for the memory.
PACKED_ONLY_BYTES = 16 * 1024 * 1024


class Linear:
    """`x @ weight.T + bias` for [rows, in] inputs.

    Args:
        weight: [out, in]
        bias: [out]

    Attributes:
        bias: as given.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self.bias = bias
        self._packed = _pack(weight)
        num_bytes = weight.numel() * weight.element_size()
        self._weight = weight if self._packed is None or num_bytes < PACKED_ONLY_BYTES else None
        self._transposed = weight.t() if self._weight is not None else None
        self._packed_rows = -(-PACKED_FROM // weight.numel()) if self._weight is not None else 0

    @property
    def weight(self) -> torch.Tensor:
        """As given; not of one that is kept packed only."""
        assert self._weight is not None
        return self._weight

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """[rows, in] -> [rows, out]"""
        if self._weight is None or (self._packed is not None and rows.shape[0] >= self._packed_rows):
            product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
                rows, self._packed, self.bias, "none", [], ""
            )
            return product
        return F.linear(rows, self._weight, self.bias)

    def added_to(self, residual: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """`residual + self(rows)`, in one operation where that is the faster one."""
        if (
            self._transposed is None
            or self.bias is not None
            or (self._packed is not None and rows.shape[0] >= self._packed_rows)
        ):
            return residual + self(rows)
        return torch.addmm(residual, rows, self._transposed)

    def add_to(self, residual: torch.Tensor, rows: torch.Tensor) -> None:
        """`residual += self(rows)` in place, which on a GPU spares `added_to`'s copy of the residual."""
        if self._transposed is None or self.bias is not None:
            residual += self(rows)
        else:
            residual.addmm_(rows, self._transposed)

    def into(self, out: torch.Tensor, rows: torch.Tensor) -> None:
        """`out[:] = self(rows)`"""
        if self._transposed is None or self.bias is not None:
            out.copy_(self(rows))
        else:
            torch.mm(rows, self._transposed, out=out)


def _pack(weight: torch.Tensor) -> torch.Tensor | None:
    """The weight in oneDNN's own layout; None where there is no oneDNN for it."""
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        return None
    try:
        packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, 16)
    except (RuntimeError, AttributeError):
        return None
    return packed
