"""Attention against softmax written out: random shapes, masks and slots, NaN where nobody wrote."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sglang.srt.layers.radix_attention import AttentionType
from sglang.srt.model_executor.forward_batch_info import ForwardMode

from sglang_mirror.platform import attention_plan
from sglang_mirror.platform.attention import MirrorTorchBackend
from sglang_mirror.platform.draft_attention import DraftStepsBackend

SLOTS = 700
TABLE_WIDTH = 128


class Pool:
    """A KV pool of one layer; slots that nobody owns hold NaN."""

    def __init__(self, kv_heads: int, dim: int, dtype: torch.dtype) -> None:
        self.keys = torch.full((SLOTS, kv_heads, dim), math.nan, dtype=dtype)
        self.values = self.keys.clone()

    def get_key_buffer(self, _layer: int) -> torch.Tensor:
        return self.keys

    def get_value_buffer(self, _layer: int) -> torch.Tensor:
        return self.values

    def set_kv_buffer(self, _layer: Any, loc: Any, k: torch.Tensor, v: torch.Tensor) -> None:
        self.keys[loc.loc] = k.view(-1, *self.keys.shape[1:]).to(self.keys.dtype)
        self.values[loc.loc] = v.view(-1, *self.values.shape[1:]).to(self.values.dtype)


@dataclass
class Scene:
    """Requests with cached prefixes and new tokens, on a backend of their own."""

    prefix_lens: list[int]
    new_lens: list[int]
    kv_heads: int = 2
    group: int = 2
    dim: int = 8
    window: int = -1
    consecutive: bool = True
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        self.pool = Pool(self.kv_heads, self.dim, self.dtype)
        batch = len(self.prefix_lens)
        self.table = torch.zeros(batch + 1, TABLE_WIDTH, dtype=torch.int32)
        order = torch.arange(1, SLOTS) if self.consecutive else torch.randperm(SLOTS - 1) + 1
        self.rows = torch.arange(batch).flip(0) + 1
        used = 0
        for row, total in zip(self.rows, self.totals, strict=True):
            self.table[row, :total] = order[used : used + total]
            used += total
        owned = order[:used]
        self.pool.keys[owned] = torch.randn(used, self.kv_heads, self.dim).to(self.dtype)
        self.pool.values[owned] = torch.randn(used, self.kv_heads, self.dim).to(self.dtype)
        heads = self.kv_heads * self.group
        tokens = sum(self.new_lens)
        self.q = torch.randn(tokens, heads * self.dim).to(self.dtype)
        self.k = torch.randn(tokens, self.kv_heads * self.dim).to(self.dtype)
        self.v = torch.randn(tokens, self.kv_heads * self.dim).to(self.dtype)
        self.layer = SimpleNamespace(
            is_cross_attention=False,
            attn_type=AttentionType.DECODER,
            logit_cap=0.0,
            layer_id=0,
            tp_q_head_num=heads,
            tp_k_head_num=self.kv_heads,
            qk_head_dim=self.dim,
            v_head_dim=self.dim,
            scaling=self.dim**-0.5,
            sliding_window_size=self.window,
        )
        self.runner = SimpleNamespace(
            device="cpu",
            page_size=1,
            req_to_token_pool=SimpleNamespace(req_to_token=self.table),
            token_to_kv_pool=self.pool,
            model_config=SimpleNamespace(context_len=TABLE_WIDTH),
        )

    @property
    def totals(self) -> list[int]:
        """Tokens of each request, the new ones included."""
        return [prefix + new for prefix, new in zip(self.prefix_lens, self.new_lens, strict=True)]

    def new_slots(self) -> torch.Tensor:
        """Where the new tokens' keys and values go."""
        spans = zip(self.rows, self.prefix_lens, self.totals, strict=True)
        return torch.cat([self.table[row, start:end] for row, start, end in spans]).long()

    def batch(self, mode: ForwardMode, seq_lens: list[int], **more: Any) -> SimpleNamespace:
        """A forward batch."""
        return SimpleNamespace(
            forward_mode=mode,
            batch_size=len(self.rows),
            req_pool_indices=self.rows,
            seq_lens=torch.tensor(seq_lens),
            out_cache_loc=self.new_slots(),
            **more,
        )

    def expect(self, tails: list[torch.Tensor] | None = None) -> torch.Tensor:
        """Attention of every new token, one at a time, in float64. `tails`: which new tokens see which."""
        out, done = [], 0
        for b, (prefix, new) in enumerate(zip(self.prefix_lens, self.new_lens, strict=True)):
            slots = self.table[self.rows[b], : prefix + new].long()
            tail = torch.ones(new, new).tril().bool() if tails is None else tails[b]
            depth = tail.sum(-1) - 1
            at = torch.cat([torch.arange(prefix), prefix + depth])
            for i in range(new):
                seen = torch.cat([torch.ones(prefix, dtype=torch.bool), tail[i]])
                if self.window >= 0:
                    seen &= at >= prefix + depth[i] - self.window
                keys = self.pool.keys[slots[seen]].double().repeat_interleave(self.group, 1)
                values = self.pool.values[slots[seen]].double().repeat_interleave(self.group, 1)
                query = self.q[done + i].double().view(-1, self.dim)
                weights = (torch.einsum("hd,khd->hk", query, keys) * self.layer.scaling).softmax(-1)
                out.append(torch.einsum("hk,khd->hd", weights, values).flatten())
            done += new
        return torch.stack(out)

    def check(self, got: torch.Tensor, want: torch.Tensor) -> None:
        """Within the precision of the data type."""
        tolerance = 1e-5 if self.dtype == torch.float32 else 3e-2
        assert got.dtype == self.dtype
        torch.testing.assert_close(got.double(), want, atol=tolerance, rtol=tolerance)


def random_tree(n: int) -> torch.Tensor:
    """Which nodes of a random tree each node sees."""
    sees = torch.eye(n, dtype=torch.bool)
    for node in range(1, n):
        sees[node] |= sees[int(torch.randint(node, ()))]
    return sees


shapes = st.fixed_dictionaries(
    {
        "kv_heads": st.integers(1, 2),
        "group": st.sampled_from([1, 2, 3]),
        "dim": st.sampled_from([8, 16]),
        "window": st.sampled_from([-1, -1, 0, 3, 20]),
        "consecutive": st.booleans(),
        "dtype": st.sampled_from([torch.float32, torch.bfloat16]),
    }
)
prefixes = st.lists(st.integers(0, 40), min_size=1, max_size=4)


@given(prefixes, shapes, st.integers(0, 99))
@settings(deadline=None, max_examples=60)
def test_decode(prefix_lens: list[int], shape: dict[str, Any], seed: int) -> None:
    torch.manual_seed(seed)
    scene = Scene(prefix_lens, [1] * len(prefix_lens), **shape)
    backend = MirrorTorchBackend(scene.runner)
    batch = scene.batch(ForwardMode.DECODE, scene.totals)
    backend.init_forward_metadata(batch)
    got = backend.forward_decode(scene.q, scene.k, scene.v, scene.layer, batch)
    scene.check(got, scene.expect())


@given(prefixes, shapes, st.integers(1, 7), st.sampled_from(["none", "full", "qlen"]), st.integers(0, 99))
@settings(deadline=None, max_examples=100)
def test_verify(prefix_lens: list[int], shape: dict[str, Any], n: int, layout: str, seed: int) -> None:
    torch.manual_seed(seed)
    scene = Scene(prefix_lens, [n] * len(prefix_lens), **shape)
    tails = [random_tree(n) for _ in prefix_lens]
    mask = torch.cat([tail.flatten() for tail in tails])
    if layout == "full":
        rows = [
            torch.cat([torch.ones(n, p).bool(), t], 1).flatten()
            for p, t in zip(prefix_lens, tails, strict=True)
        ]
        mask = torch.cat([*rows, torch.zeros(11, dtype=torch.bool)])  # SGLang sizes it generously
    spec = SimpleNamespace(draft_token_num=n, custom_mask=None if layout == "none" else mask)
    backend = MirrorTorchBackend(scene.runner)
    batch = scene.batch(ForwardMode.TARGET_VERIFY, prefix_lens, spec_info=spec)
    backend.init_forward_metadata(batch)
    got = backend.forward_extend(scene.q, scene.k, scene.v, scene.layer, batch)
    scene.check(got, scene.expect(None if layout == "none" else tails))


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 23)), min_size=1, max_size=4),
    shapes,
    st.sampled_from([4, 256]),
    st.sampled_from([0, 1 << 20]),
)
@settings(deadline=None, max_examples=60)
def test_extend(lens: list[tuple[int, int]], shape: dict[str, Any], block: int, cached_cells: int) -> None:
    torch.manual_seed(len(lens))
    prefix_lens, new_lens = map(list, zip(*lens, strict=True))
    scene = Scene(prefix_lens, new_lens, **shape)
    backend = MirrorTorchBackend(scene.runner)
    batch = scene.batch(
        ForwardMode.EXTEND,
        scene.totals,
        extend_prefix_lens=torch.tensor(prefix_lens),
        extend_seq_lens=torch.tensor(new_lens),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention_plan, "BLOCK", block)
        patch.setattr(attention_plan, "CACHED_CELLS", cached_cells)
        backend.init_forward_metadata(batch)
        got = backend.forward_extend(scene.q, scene.k, scene.v, scene.layer, batch)
        again = backend.forward_extend(scene.q, scene.k, scene.v, scene.layer, batch)
    scene.check(got, scene.expect())
    assert torch.equal(got, again)


@pytest.mark.parametrize("topk", [1, 3])
def test_draft_steps(topk: int) -> None:
    """Step i's row sees the prefix and its branch's first i + 1 slots."""
    torch.manual_seed(0)
    steps, prefix_lens = 4, [5, 0, 17]
    scene = Scene(prefix_lens, [topk * steps] * 3)
    container = DraftStepsBackend(scene.runner, topk=topk, num_steps=steps)
    container.init_forward_metadata(scene.batch(ForwardMode.DECODE, prefix_lens))
    heads = scene.layer.tp_q_head_num
    for step, backend in enumerate(container.attn_backends):
        rows = [
            torch.cat([scene.table[row, :prefix], scene.table[row, own : own + step + 1]]).long()
            for row, prefix in zip(scene.rows, prefix_lens, strict=True)
            for own in range(prefix, prefix + topk * steps, steps)
        ]
        q = torch.randn(len(rows), heads * scene.dim)
        batch = SimpleNamespace(forward_mode=ForwardMode.DECODE)
        backend.init_forward_metadata(batch)
        got = backend.forward_decode(q, None, None, scene.layer, batch, save_kv_cache=False)
        for i, slots in enumerate(rows):
            keys, values = scene.pool.keys[slots], scene.pool.values[slots]
            query = q[i].view(scene.kv_heads, scene.group, scene.dim)
            weights = torch.einsum("kgd,skd->kgs", query, keys).mul(scene.layer.scaling).softmax(-1)
            want = torch.einsum("kgs,skd->kgd", weights, values).flatten()
            torch.testing.assert_close(got[i], want, atol=1e-5, rtol=1e-5)


def test_a_window_of_one_is_a_decoded_token_bit_by_bit() -> None:
    torch.manual_seed(0)
    scene = Scene([33], [1])
    backend = MirrorTorchBackend(scene.runner)
    decode = scene.batch(ForwardMode.DECODE, [34])
    backend.init_forward_metadata(decode)
    decoded = backend.forward_decode(scene.q, scene.k, scene.v, scene.layer, decode)
    spec = SimpleNamespace(draft_token_num=1, custom_mask=torch.ones(1, dtype=torch.bool))
    verify = scene.batch(ForwardMode.TARGET_VERIFY, [33], spec_info=spec)
    backend.init_forward_metadata(verify)
    assert torch.equal(decoded, backend.forward_extend(scene.q, scene.k, scene.v, scene.layer, verify))


def test_very_different_lengths_are_not_padded_together() -> None:
    table = torch.arange(4 * 2000, dtype=torch.int32).view(4, 2000)
    assert len(attention_plan.new_tokens(table, range(4), [1900, 3, 3, 3], [1] * 4)) == 4
    assert len(attention_plan.new_tokens(table, range(4), [1900, 1500, 900, 3], [1] * 4)) == 1


def test_soft_capped_logits_are_refused() -> None:
    scene = Scene([3], [1])
    scene.layer.logit_cap = 30.0
    batch = scene.batch(ForwardMode.DECODE, [4])
    backend = MirrorTorchBackend(scene.runner)
    backend.init_forward_metadata(batch)
    with pytest.raises(NotImplementedError, match="soft-capped"):
        backend.forward_decode(scene.q, scene.k, scene.v, scene.layer, batch)
