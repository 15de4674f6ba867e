"""What service varies is no reason to compile: one kernel for every number of rows, slots and layers."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch

from sglang_mirror.draft.backends.buckets import NUM_CANDIDATES, NUM_WORDS, Bucket
from sglang_mirror.draft.backends.packing import as_rows
from sglang_mirror_kernels.rows import Layer

pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget
from triton.compiler import make_backend
from triton.runtime.jit import create_function_from_signature

from sglang_mirror_kernels.triton import exit_topk, gate, promote, rotate, tree_attention

pytestmark = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="nothing is compiled")

CPU = torch.device("cpu")
HEADS, KV_HEADS, DIM = 4, 2, 64
COUNTS = (1, 2, 3, 16, 17, 48)  # one, multiples of 16 and others are what Triton tells apart


class Launches:
    """Stands in for a kernel: notes which one Triton would compile for an H100, and launches nothing."""

    def __init__(self, kernel: Any) -> None:
        backend = make_backend(GPUTarget("cuda", 90, 32))
        self._bind = create_function_from_signature(kernel.signature, kernel.params, backend)
        self.compiled = set[str]()

    def __getitem__(self, _grid: object) -> Callable[..., None]:
        def launch(*args: object, **options: object) -> None:
            _, specialization, rest = self._bind(*args, **options)
            self.compiled.add(repr((specialization, rest)))

        return launch


def one_each(
    monkeypatch: pytest.MonkeyPatch, module: Any, names: tuple[str, ...], call: Callable[[int], object]
) -> None:
    launches = [Launches(getattr(module, name)) for name in names]
    for name, each in zip(names, launches, strict=True):
        monkeypatch.setattr(module, name, each)
    for count in COUNTS:
        call(count)
    assert [len(each.compiled) for each in launches] == [1] * len(names)


def rows_of(num_rows: int) -> Any:
    return as_rows(Bucket(num_rows, NUM_WORDS, NUM_CANDIDATES, CPU).table, num_rows)


def test_promote(monkeypatch: pytest.MonkeyPatch) -> None:
    kv = torch.zeros(2, 3, KV_HEADS, 256, DIM)
    one_each(monkeypatch, promote, ("_gather",), lambda count: promote.promote(kv, torch.arange(count), 5))


@pytest.mark.parametrize("vocab", [9000, 4096 * 4])
def test_exit_topk(vocab: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def call(rows: int) -> None:
        exit_topk.exit_topk(torch.zeros(rows, vocab), torch.zeros(rows, 1, dtype=torch.int64), 8)

    one_each(monkeypatch, exit_topk, ("_best_of_block", "_best_of_row"), call)


def test_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    one_each(monkeypatch, gate, ("_gate",), lambda rows: gate.gate(torch.zeros(rows, 2 * DIM)))


def test_rotate(monkeypatch: pytest.MonkeyPatch) -> None:
    rope, memory = torch.zeros(9, 2, 1, DIM), torch.zeros(64)

    def call(count: int) -> None:
        qkv, positions = torch.zeros(count, HEADS + 2 * KV_HEADS, DIM), torch.zeros(count, dtype=torch.int64)
        layer = Layer(count - 1, 48, KV_HEADS)
        rotate.rotate(qkv, None, rope, positions, memory, rows_of(count), layer, eps=1e-5)

    one_each(monkeypatch, rotate, ("_rotate",), call)


def test_tree_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    def call(count: int) -> None:
        query, layer = torch.zeros(count, HEADS, DIM), Layer(count - 1, 48, KV_HEADS)
        tree_attention.tree_attention(query, torch.zeros(64), rows_of(count), layer, scale=1.0)

    one_each(monkeypatch, tree_attention, ("_attend", "sum_parts"), call)
