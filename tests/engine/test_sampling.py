"""Tokens drawn at every node: the law of the plain server's sampler; with a seed its very tokens."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from scipy import stats
from sglang.srt.layers import sampler as host
from sglang.srt.speculative import eagle_utils

from sglang_mirror.engine import sampling

VOCABULARY, NODES, REQUESTS = 12, 3, 4000
FALSE_ALARM = 1e-4
# top-k, top-p, min-p; filtered one after another, the second and the last would keep other tokens
FILTERS = [(VOCABULARY, 1.0, 0.0), (4, 0.6, 0.0), (VOCABULARY, 1.0, 0.25), (5, 0.9, 0.3)]


@pytest.fixture
def sampler(monkeypatch: pytest.MonkeyPatch) -> Any:
    """SGLang's, with its backend of torch operations."""
    backend = SimpleNamespace(kernel=SimpleNamespace(sampling_backend="pytorch"))
    monkeypatch.setattr(host, "get_exec", lambda: backend)
    return host.Sampler.__new__(host.Sampler)


def info(count: int, top_k: int, top_p: float, min_p: float, seed: int | None = None) -> Any:
    """How `count` requests sample, all alike but for their seeds, at temperature 0.7."""
    return SimpleNamespace(
        temperatures=torch.full((count, 1), 0.7),
        top_ks=torch.full((count,), top_k, dtype=torch.int32),
        top_ps=torch.full((count,), top_p),
        min_ps=torch.full((count,), min_p),
        sampling_seed=None if seed is None else seed + torch.arange(count),
        need_top_k_sampling=top_k < VOCABULARY,
        need_top_p_sampling=top_p < 1.0,
        need_min_p_sampling=min_p > 0.0,
        sampling_mask_batch_indices=None,
        max_top_k=None,
        is_all_greedy=False,
    )


def law(logits: torch.Tensor, top_k: int, top_p: float, min_p: float) -> torch.Tensor:
    """Written as a loop: a token stays if all three let it, each by the probabilities of the softmax."""
    probs = torch.softmax(logits.double() / 0.7, -1)
    kept, before = torch.zeros_like(probs), 0.0
    for rank, token in enumerate(probs.argsort(descending=True).tolist()):
        if rank < top_k and before <= top_p and probs[token] >= min_p * probs.max():
            kept[token] = probs[token]
        before += float(probs[token])
    return kept / kept.sum()


@pytest.mark.parametrize(("top_k", "top_p", "min_p"), FILTERS)
def test_the_law_at_every_node(sampler: Any, top_k: int, top_p: float, min_p: float) -> None:
    torch.manual_seed(3)
    window = torch.randn(NODES, VOCABULARY) * 0.5
    logits = window.repeat(REQUESTS, 1)
    asked = info(REQUESTS, top_k, top_p, min_p)
    positions = torch.arange(REQUESTS * NODES)
    tokens = sampling.tokens_of(sampler, logits, asked, positions, num_nodes=NODES).view(REQUESTS, NODES)
    assert logits.equal(window.repeat(REQUESTS, 1))
    for node in range(NODES):
        counts = tokens[:, node].bincount(minlength=VOCABULARY)
        wanted = law(window[node], top_k, top_p, min_p)
        assert not counts[wanted == 0].any()
        possible = wanted > 0
        assert possible.sum() > 1
        found = stats.chisquare(counts[possible].numpy(), (wanted[possible] * REQUESTS).numpy())
        assert found.pvalue > FALSE_ALARM, node


def noisy(logprobs: torch.Tensor, seed: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Stands for SGLang's seeded draw, whose hash is a compiled kernel: of seed and position alone, too."""
    rows = zip(logprobs, seed.tolist(), positions.tolist(), strict=True)
    found = []
    for row, number, position in rows:
        noise = torch.rand(len(row), generator=torch.Generator().manual_seed(1000 * number + position))
        found.append((row - torch.log(-torch.log(noise))).argmax().view(1))
    return torch.stack(found)


def test_a_seed_gives_the_plain_servers_token(sampler: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "multinomial_with_seed", noisy)
    logits = torch.randn(2 * NODES, VOCABULARY)
    positions = torch.tensor([7, 8, 8, 20, 21, 22])  # the first window is a fork
    asked = info(2, 6, 0.9, 0.0, seed=5)
    found = sampling.tokens_of(sampler, logits, asked, positions, num_nodes=NODES)
    for row, (node, position) in enumerate(zip(logits, positions, strict=True)):
        alone = info(1, 6, 0.9, 0.0, seed=5 + row // NODES)
        probs = torch.softmax(node[None] / 0.7, -1)
        plain = sampler._sample_from_probs(probs, alone, position[None], False)
        assert found[row] == (plain[0] if isinstance(plain, tuple) else plain)


def verify_input(sampler: Any) -> Any:
    """One window's; its group keeps what is broadcast."""
    group = SimpleNamespace(told=[])
    group.broadcast = lambda tokens, src: group.told.append((tokens.tolist(), src))
    return SimpleNamespace(draft_token_num=NODES, positions=torch.arange(NODES), sampler=sampler, group=group)


def test_the_walk_is_told_the_drawn_tokens(sampler: Any) -> None:
    """With what is added to the logits once verification has begun; all ranks have the first one's."""
    logits = torch.zeros(NODES, VOCABULARY)
    batch = SimpleNamespace(sampling_info=info(1, VOCABULARY, 1.0, 0.0))
    given = verify_input(sampler)

    def walk(*, target_predict: torch.Tensor, topk: int) -> tuple[torch.Tensor, int]:
        return target_predict, topk

    with sampling.drawn(batch, given, logits):
        assert batch.sampling_info.is_all_greedy
        logits[:, 5] += 100.0  # as SGLang adds a logit bias
        found, topk = sampling.around_walk(walk, target_predict=torch.zeros(1, NODES), topk=4)
    assert found.tolist() == [[5] * NODES]
    assert topk == 4
    assert given.group.told == [([5] * NODES, 0)]
    assert not batch.sampling_info.is_all_greedy
    most_probable = torch.ones(1, NODES)
    assert sampling.around_walk(walk, target_predict=most_probable, topk=1)[0] is most_probable


def test_a_verification_that_fails_leaves_nothing_behind(sampler: Any) -> None:
    batch = SimpleNamespace(sampling_info=info(1, VOCABULARY, 1.0, 0.0))
    with (
        pytest.raises(RuntimeError, match="out of memory"),
        sampling.drawn(batch, verify_input(sampler), torch.zeros(NODES, VOCABULARY)),
    ):
        raise RuntimeError("out of memory")
    assert not batch.sampling_info.is_all_greedy
    assert sampling.around_walk(lambda **given: given, target_predict=1) == {"target_predict": 1}


def test_sglang_walks_greedily_over_what_it_is_given() -> None:
    """Its branch for greedy batches hands the most probable tokens on by their name."""
    assert "target_predict=target_predict" in inspect.getsource(eagle_utils.eagle_sample)


def test_where_tokens_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sampling.is_ours(torch.device("cuda"))
    assert not sampling.is_ours(torch.device("cpu"))
    monkeypatch.setenv(sampling.CPU_ENGINE, "1")
    assert sampling.is_ours(torch.device("cpu"))
