"""The static forward against the eager path: captured on a GPU, else by the references, or interpreted."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from sglang_mirror.bench.pair import embedded_streaming
from sglang_mirror.draft.backends import load_backend
from sglang_mirror.draft.backends.base import Cache, Segment
from sglang_mirror.draft.backends.fused_llama import FusedLlama
from sglang_mirror.draft.backends.graphed import GraphedBackend
from sglang_mirror.draft.backends.kv_cache import TensorCache
from sglang_mirror.draft.backends.llama_loop import LlamaLoop, StreamWeights
from sglang_mirror.draft.backends.self_check import deviation, reference
from sglang_mirror.draft.backends.torch_backend import TorchBackend
from sglang_mirror.errors import SettingsError
from tests.draft.tiny import VOCAB, make
from tests.kernels.test_triton import run_cases

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BUCKETS = (1, 4, 24)
ARENA = 4_000_000
CLOSE = 1e-4  # log-probabilities


class Pair:
    """The two backends over one model.

    Where neither a GPU nor Triton's interpreter runs the kernels, the references want all KV in one tensor:
    caches are then cut from it, with what an earlier owner might have left there.
    """

    def __init__(
        self,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        *,
        streams: int = 0,
        fused: bool = False,
        buckets: Sequence[int] = BUCKETS,
    ) -> None:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
        model = model.to(DEVICE).eval()
        expected = reference(model)
        generator = torch.Generator().manual_seed(streams)
        embeddings = torch.randn(streams, model.config.hidden_size, generator=generator)
        weights = StreamWeights(embeddings.to(DEVICE), 1)
        loop = LlamaLoop(model, weights if streams else None)
        self.num_streams, self.num_ahead = streams, 0
        self.eager = TorchBackend(model, "tiny", loop, num_tokens=VOCAB)
        self.eager.most_along = 0
        self.graphed = GraphedBackend(model, "tiny", loop, num_tokens=VOCAB, buckets=buckets, fused=fused)
        if DEVICE == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
            arena, used = torch.randn(ARENA), itertools.count(0)
            self.graphed._memory = arena

            def cut(cache: TensorCache, capacity: int) -> torch.Tensor:
                shape = cache._shape
                sizes = (2, shape.num_layers, shape.num_kv_heads, capacity, shape.head_dim)
                start = next(used) * ARENA // 40
                return arena[start:][: torch.Size(sizes).numel()].view(sizes)

            monkeypatch.setattr(TensorCache, "_empty", cut)
        assert deviation(self.graphed, expected) < expected.tolerance

    def forward(self, parts: Sequence[tuple[Segment, ...]], count: int) -> None:
        """Both say the same."""
        found = self.graphed.forward([part[0] for part in parts], count)
        wanted = self.eager.forward([part[1] for part in parts], count)
        assert [len(each) for each in found] == [len(each) for each in wanted]
        chain = itertools.chain.from_iterable
        for ours, theirs in zip(chain(found), chain(wanted), strict=True):
            assert len(ours.ahead) == len(theirs.ahead) in (0, self.num_streams)
            for said, expected in zip((ours.next, *ours.ahead), (theirs.next, *theirs.ahead), strict=True):
                assert said.logprobs == pytest.approx(expected.logprobs, abs=CLOSE)
                for token, logprob in zip(said.tokens, said.logprobs, strict=True):
                    # Which of two that are as good as equal comes first, or comes in, is rounding.
                    ranked = expected.logprob(token) if token in expected.tokens else expected.logprobs[-1]
                    assert ranked == pytest.approx(logprob, abs=CLOSE)
        self.num_ahead += sum(len(said.ahead) for said in chain(found))


@dataclass
class Request:
    """A text and a tree behind it, kept alike in both backends' caches."""

    caches: tuple[Cache, Cache]
    num_text: int = 0
    nodes: list[tuple[int, int]] = field(default_factory=list)  # position, bits of what it sees

    def segments(self, picker: random.Random, count: int, *, prompt: bool) -> tuple[Segment, ...]:
        """The next rows: prompt tokens, or nodes anywhere in the tree."""
        start = self.num_text + len(self.nodes)
        tokens = [picker.randrange(VOCAB) for _ in range(count)]
        if prompt:
            positions, seen = list(range(start, start + count)), [(2 << row) - 1 for row in range(count)]
            self.num_text += count
        else:
            for _ in range(count):
                parent = picker.randrange(-1, len(self.nodes))
                position, above = self.nodes[parent] if parent >= 0 else (self.num_text - 1, 0)
                self.nodes.append((position + 1, above | 1 << len(self.nodes)))
            positions = [position for position, _ in self.nodes[-count:]]
            seen = [bits for _, bits in self.nodes[-count:]]
        prefix = start if prompt else self.num_text
        wanted = sorted(picker.sample(range(count), picker.randint(0, count)))
        places = (positions, start, prefix, seen, wanted)
        return tuple(Segment(cache, tokens, *places, streamed=wanted) for cache in self.caches)

    def promote(self, picker: random.Random) -> None:
        """Commit a path of the tree: it moves to the front, over what lay there; the rest goes."""
        if not self.nodes:
            return
        _, bits = picker.choice(self.nodes)
        path = [place for place in range(len(self.nodes)) if bits >> place & 1]
        for cache in self.caches:
            cache.move([self.num_text + place for place in path], self.num_text)
        self.num_text += len(path)
        self.nodes = []


def play(both: Pair, picker: random.Random, num_forwards: int) -> None:
    """Prompts in chunks, trees of several requests, promotion, requests that end and new ones."""
    requests: list[Request] = []
    for _ in range(num_forwards):
        while len(requests) < 3:
            requests.append(Request((both.graphed.new_cache(), both.eager.new_cache())))
        parts = []
        for request in picker.sample(requests, picker.randint(1, len(requests))):
            if picker.random() < 0.3:
                request.promote(picker)
            prompt = not request.nodes and (request.num_text < 2 or picker.random() < 0.3)
            parts.append(request.segments(picker, picker.randint(1, 19), prompt=prompt))
        both.forward(parts, picker.choice((1, 5, 9)))
        if picker.random() < 0.2:
            requests.pop(picker.randrange(len(requests)))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("qwen3", {}),
        ("qwen2", {"num_key_value_heads": 1}),  # four heads a KV head; biases
        # Head size 12.
        ("llama", {"num_key_value_heads": 4, "hidden_size": 48, "attention_bias": True, "mlp_bias": True}),
        ("mistral", {"sliding_window": None}),
    ],
)
def test_random_trees(
    architecture: str,
    changes: dict[str, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    fused: bool,
) -> None:
    both = Pair(make(architecture, tmp_path, **changes), monkeypatch, fused=fused)
    play(both, random.Random(architecture), 20)


def test_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three streams: buckets of 3 and 12 of their rows, for more rows than that."""
    both = Pair(make("qwen3", tmp_path), monkeypatch, streams=3)
    play(both, random.Random(6), 20)  # in 5 two tokens differ by less than rounding does
    assert both.num_ahead > 300


@pytest.mark.parametrize("fused", [False, True])
def test_few_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, fused: bool) -> None:
    """Small enough for the interpreter, whose rows are 200 times slower."""
    folder = make("qwen3", tmp_path, num_hidden_layers=1)
    both, picker = Pair(folder, monkeypatch, streams=2, fused=fused), random.Random(2)
    requests = [Request((both.graphed.new_cache(), both.eager.new_cache())) for _ in range(2)]
    both.forward([request.segments(picker, 2, prompt=True) for request in requests], 3)
    for request in (requests[0], requests[1], requests[0]):
        both.forward([request.segments(picker, 3, prompt=False)], 2)
        request.promote(picker)
    both.forward([request.segments(picker, 2, prompt=False) for request in requests], 3)


def test_few_rows_interpreted() -> None:
    if os.environ.get("TRITON_INTERPRET") != "1" and DEVICE == "cpu":
        run_cases(Path(__file__), "-k", "test_few_rows and not interpreted")


def test_more_than_was_made_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of 256 slots, buckets of 24 rows, the words of a tree and the candidates of a row."""
    both, picker = Pair(make("llama", tmp_path, num_hidden_layers=1), monkeypatch), random.Random(4)
    both.graphed._main.make(1, 2)
    request = Request((both.graphed.new_cache(), both.eager.new_cache()))
    both.forward([request.segments(picker, 230, prompt=True)], 2)
    both.forward([request.segments(picker, 70, prompt=False)], 12)
    assert both.graphed._main.num_words == 4
    assert both.graphed._main.num_candidates == 12
    both.forward([request.segments(picker, 3, prompt=False)], VOCAB - 1)


def test_no_row_behind_the_models_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = Pair(make("llama", tmp_path, num_hidden_layers=1), monkeypatch)
    with pytest.raises(ValueError, match="position 512: tiny takes at most 512 tokens"):
        both.graphed.forward([Segment(both.graphed.new_cache(), [1], [512], 0, 0, [1], [0])], 1)


def test_refuses_what_is_computed_eagerly(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(make("mistral", tmp_path), dtype=torch.float32)
    with pytest.raises(ValueError, match="computed eagerly"):
        GraphedBackend(model, "tiny", LlamaLoop(model), num_tokens=VOCAB)


def test_merged_kernels_refuse_heads_too_large_for_them(tmp_path: Path) -> None:
    folder = make("llama", tmp_path, num_hidden_layers=1, head_dim=320)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with pytest.raises(ValueError, match="its heads have 320 channels, more than 256"):
        GraphedBackend(model, "tiny", LlamaLoop(model), num_tokens=VOCAB, fused=True)


def test_merged_kernels_say_all_that_they_cannot_do(tmp_path: Path) -> None:
    folder = str(make("gemma2", tmp_path))
    with pytest.raises(SettingsError) as refused:
        load_backend("torch-fused", model=folder, device="cpu", dtype="auto", threads=1)
    [reason] = refused.value.reasons
    assert reason == (
        f"--backend torch-fused cannot run --model {folder}: --device cpu is no GPU; the model is a "
        "Gemma2ForCausalLM, and merged kernels compute models of Llama's kind only. Choose --backend torch, "
        "which takes the fastest way that suits a model and its device"
    )


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
@pytest.mark.parametrize("name", ["torch", "torch-fused"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_gpu_gets_graphs(name: str, dtype: str, tmp_path: Path) -> None:
    folder = str(make("qwen3", tmp_path))
    backend = load_backend(name, model=folder, device="cuda", dtype=dtype, threads=1)
    assert isinstance(backend, GraphedBackend)
    assert isinstance(backend._model, FusedLlama) == (name == "torch-fused")
    assert all(bucket.graph is not None for bucket in backend._main.buckets)
    eager = load_backend("torch-eager", model=folder, device="cuda", dtype=dtype, threads=1)
    assert not isinstance(eager, GraphedBackend)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
@pytest.mark.parametrize("name", ["torch", "torch-fused"])
def test_a_streaming_draft_gets_graphs(name: str) -> None:
    folder = str(embedded_streaming())
    backend = load_backend(name, model=folder, device="cuda", dtype="bfloat16", threads=1)
    assert isinstance(backend, GraphedBackend)
    assert backend._streams is not None
    assert all(bucket.graph is not None for bucket in backend._streams.buckets)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
def test_a_sliding_window_is_computed_eagerly(tmp_path: Path) -> None:
    folder = str(make("mistral", tmp_path))
    backend = load_backend("torch", model=folder, device="cuda", dtype="auto", threads=1)
    assert not isinstance(backend, GraphedBackend)
    with pytest.raises(SettingsError, match=r"sliding windows.*Choose --backend torch"):
        load_backend("torch-fused", model=folder, device="cuda", dtype="auto", threads=1)
