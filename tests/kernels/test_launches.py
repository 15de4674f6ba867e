"""What Triton compiles for an H100, asked without one: kernels that fit, and one whatever service varies."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sglang_mirror.draft.backends.buckets import NUM_CANDIDATES, NUM_WORDS, Bucket
from sglang_mirror.draft.backends.packing import as_rows
from sglang_mirror_kernels.rows import Layer

pytest.importorskip("triton")

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import create_function_from_signature

from sglang_mirror_kernels.triton import (
    exit_topk,
    gate,
    products,
    project_gate,
    project_rotate,
    promote,
    rotate,
    tree_attention,
)

pytestmark = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="nothing is compiled")

CPU, H100 = torch.device("cpu"), GPUTarget("cuda", 90, 32)
H100_SHARED_BYTES = 227 * 1024
HEADS, KV_HEADS, DIM = 4, 2, 64
COUNTS = (1, 2, 3, 16, 17, 48)  # one, multiples of 16 and others are what Triton tells apart


class Launches:
    """Stands in for a kernel: notes which one Triton would compile for an H100, and launches nothing."""

    def __init__(self, kernel: Any) -> None:
        self._kernel, self._backend = kernel, make_backend(H100)
        self._bind = create_function_from_signature(kernel.signature, kernel.params, self._backend)
        self.compiled = set[str]()

    def __getitem__(self, _grid: object) -> Callable[..., None]:
        def launch(*args: object, **options: object) -> None:
            bound, specialization, rest = self._bind(*args, **options)
            self.compiled.add(repr((specialization, rest)))
            self.launched(options, bound, specialization, rest)

        return launch

    def launched(self, *args: Any) -> None:
        """To be added to."""


class Compiled(Launches):
    """Compiles it, too, down to the machine's code.

    Attributes:
        shared_bytes: of a program, the most of all.
    """

    shared_bytes = 0

    def launched(self, *args: Any) -> None:
        options, signature, constants, attributes = self._kernel._pack_args(self._backend, *args)
        source = ASTSource(self._kernel, signature, constants, attributes)
        found = triton.compile(source, target=H100, options=options.__dict__)
        self.shared_bytes = max(self.shared_bytes, found.metadata.shared)


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


def compiled(monkeypatch: pytest.MonkeyPatch, module: Any, *names: str) -> list[Compiled]:
    found = [Compiled(getattr(module, name)) for name in names]
    for name, each in zip(names, found, strict=True):
        monkeypatch.setattr(module, name, each)
    return found


@pytest.fixture
def as_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for module in (products, tree_attention):
        monkeypatch.setattr(module, "dot_type", lambda _tensor: triton.language.bfloat16)
    monkeypatch.setattr(products, "_shared_bytes", lambda _device: H100_SHARED_BYTES)


def half(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.bfloat16)


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("dim", [64, 128])
def test_a_layers_kernels_fit(dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a model of 0.6 billion parameters; the merged ones in programs of 16, 32 and 64 rows."""
    made = compiled(monkeypatch, tree_attention, "_attend", "sum_parts")
    made += compiled(monkeypatch, project_gate, "_project_gate")
    made += compiled(monkeypatch, project_rotate, "_project_rotate")
    made += compiled(monkeypatch, rotate, "_rotate")
    layer, memory, rope, width = Layer(3, 28, 8), half(64), half(9, 2, 1, dim), 1024
    for count in (8, 24, 128):
        rows, places, query = rows_of(count), torch.zeros(count, dtype=torch.int64), half(count, 16, dim)
        project_gate.project_gate(half(count, width), half(6144, width), None, eps=1e-6)
        project_rotate.project_rotate(
            *(half(count, width), half(32 * dim, width), None, half(24, dim), rope, places, memory),
            *(rows, layer),
            eps=1e-6,
        )
        rotate.rotate(half(count, 32, dim), half(24, dim), rope, places, memory, rows, layer, eps=1e-6)
        for arrived in (None, torch.zeros(count * 8, dtype=torch.int32)):
            tree_attention.tree_attention(query, memory, rows, layer, scale=0.1, arrived=arrived)
    assert [len(each.compiled) for each in made] == [2, 1, 3, 3, 1]
    assert all(each.shared_bytes <= H100_SHARED_BYTES for each in made)


@pytest.mark.usefixtures("as_on_a_gpu")
def test_what_is_outside_of_layers_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    made = compiled(monkeypatch, exit_topk, "_best_of_block", "_best_of_row")
    made += compiled(monkeypatch, gate, "_gate") + compiled(monkeypatch, promote, "_gather")
    exit_topk.exit_topk(half(9, 151_936), torch.zeros(9, 1, dtype=torch.int64), 9)
    gate.gate(half(9, 6144), eps=1e-6, states=half(9, 1024))
    promote.promote(half(2, 28, 8, 256, 128), torch.arange(9), 5)
    assert all(each.shared_bytes <= H100_SHARED_BYTES for each in made)
