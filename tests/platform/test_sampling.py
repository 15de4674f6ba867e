"""Verification at temperature > 0 commits by the target's own law, filtered as the plain server filters it.

Through SGLang's own `eagle_sample`, over many requests at once: the frequencies of the committed tokens
against exact probabilities, by chi-square on a fixed seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from sglang.srt import runtime_context
from sglang.srt.layers import dp_attention
from sglang.srt.sampling.sampling_params import TOP_K_ALL
from sglang.srt.speculative import eagle_utils

from sglang_mirror.platform import sampling, tree

REQUESTS, VOCAB, NODES = 6000, 24, 4
LINKS = torch.tensor(
    [[[0, 1, 2, 3]], [[1, 3, -1, -1]], [[-1, 2, -1, -1]]]
)  # 0 has children 1 and 2, 1 has child 3


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The seams that `replacements` sets, and an engine's context with one rank."""
    monkeypatch.setattr(eagle_utils, "tree_speculative_sampling_target_only", sampling.sample_tree)
    monkeypatch.setattr(eagle_utils, "top_k_renorm_prob", sampling.unfiltered)
    monkeypatch.setattr(eagle_utils, "top_p_renorm_prob", sampling.unfiltered)
    monkeypatch.setattr(eagle_utils, "verify_tree_greedy_func", tree.verify_tree_greedy)
    spec = SimpleNamespace(
        speculative_use_rejection_sampling=False,
        speculative_accept_threshold_single=0.5,  # lossy in SGLang's own rule; ours must not look at them
        speculative_accept_threshold_acc=0.5,
    )
    monkeypatch.setattr(eagle_utils, "get_spec", lambda: spec)
    parallel = SimpleNamespace(tp_group=SimpleNamespace(world_size=1))
    monkeypatch.setattr(runtime_context, "get_parallel", lambda: parallel)
    monkeypatch.setattr(dp_attention, "is_dp_attention_enabled", lambda: False)
    return iter(())


def sampling_info(
    temperatures: torch.Tensor, *, top_k: Any = TOP_K_ALL, top_p: float = 1.0, min_p: float = 0.0
) -> Any:
    """What a batch asks for; `top_k` may differ by request."""
    top_ks = torch.as_tensor(top_k, dtype=torch.int32).expand(REQUESTS)
    return SimpleNamespace(
        temperatures=temperatures.expand(REQUESTS, 1),
        top_ks=top_ks,
        top_ps=torch.full((REQUESTS,), top_p),
        min_ps=torch.full((REQUESTS,), min_p),
        need_top_k_sampling=bool((top_ks != TOP_K_ALL).any()),
        need_top_p_sampling=top_p != 1.0,
        need_min_p_sampling=min_p > 0,
        max_top_k=None,
        sampling_seed=None,
        is_all_greedy=False,
        acc_additive_penalties=None,
        acc_scaling_penalties=None,
        logit_bias=None,
        has_watermark_candidates=False,
    )


def verify(logits: torch.Tensor, drafted: torch.Tensor, info: Any) -> list[list[int]]:
    """The tokens that each request commits; `logits` [NODES, V] and `drafted` [NODES] serve them all."""
    verify_input = SimpleNamespace(
        draft_token=drafted.repeat(REQUESTS),
        positions=torch.arange(NODES).repeat(REQUESTS),
        draft_token_num=NODES,
        max_tree_depth=3,
        tree_topk=2,
        retrieve_index=torch.arange(REQUESTS * NODES).view(REQUESTS, NODES),
        retrieve_next_token=LINKS[1].expand(REQUESTS, -1),
        retrieve_next_sibling=LINKS[2].expand(REQUESTS, -1),
    )
    batch = SimpleNamespace(
        device="cpu",
        forward_mode=SimpleNamespace(is_idle=lambda: False),
        seq_lens=torch.full((REQUESTS,), 7),
        sampling_info=info,
    )
    output = SimpleNamespace(next_token_logits=logits.repeat(REQUESTS, 1))
    predict, accept_lens, accept_index = sampling.around_eagle_sample(
        eagle_utils.eagle_sample, verify_input, batch, output
    )
    paths = zip(accept_index.tolist(), accept_lens.tolist(), strict=True)
    return [predict[torch.tensor(path[:length])].tolist() for path, length in paths]


def exact(
    logits: torch.Tensor, temperature: float, *, top_k: int = VOCAB, top_p: float = 1.0, min_p: float = 0.0
) -> torch.Tensor:
    """The plain server's law, float64 [V]: every filter looks at the probabilities as softmax gave them."""
    probs = (logits.double() / temperature).softmax(-1)
    ranked = probs.argsort(descending=True).tolist()
    kept, above = torch.zeros(VOCAB, dtype=torch.float64), 0.0
    for rank, token in enumerate(ranked):
        if rank < top_k and above <= top_p and probs[token] >= min_p * probs[ranked[0]]:
            kept[token] = probs[token]
        above += float(probs[token])
    return kept / kept.sum()


def agrees(tokens: list[int], law: torch.Tensor) -> None:
    """Chi-square at one in a thousand, rare tokens counted as one, and nothing outside the law's support."""
    counts = torch.bincount(torch.tensor(tokens), minlength=VOCAB).double()
    assert counts[law == 0].sum() == 0
    expected = law * len(tokens)
    common = expected >= 5
    pooled = [torch.cat([x[common], x[~common].sum().view(1)]) for x in (counts, expected)]
    observed, wanted = (x[pooled[1] > 1e-6].numpy() for x in pooled)
    assert len(wanted) == 1 or chisquare(observed, wanted).pvalue > 1e-3


@pytest.mark.usefixtures("host")
@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"top_k": 5},
        {"top_p": 0.7},
        {"top_k": 8, "top_p": 0.8},
        {"min_p": 0.2},
        {"top_k": 9, "top_p": 0.9, "min_p": 0.1},
    ],
)
@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_commits_by_the_plain_servers_law(asked: dict[str, float], temperature: float) -> None:
    torch.manual_seed(3)
    logits = 0.5 * torch.randn(NODES, VOCAB)
    likely = logits.argsort(descending=True, dim=-1)
    drafted = torch.tensor([0, likely[0, 0], likely[0, 1], likely[1, 0]])
    committed = verify(logits, drafted, sampling_info(torch.tensor(temperature), **asked))
    agrees([tokens[0] for tokens in committed], exact(logits[0], temperature, **asked))
    for node in (1, 2):  # the second token is drawn at the child that the first one chose
        second = [tokens[1] for tokens in committed if tokens[0] == drafted[node]]
        assert len(second) > 100
        agrees(second, exact(logits[node], temperature, **asked))
    third = [tokens[2] for tokens in committed if len(tokens) > 2]
    assert len(third) > 20
    agrees(third, exact(logits[3], temperature, **asked))


@pytest.mark.usefixtures("host")
def test_a_greedy_request_in_a_sampled_batch_gets_the_argmax() -> None:
    """SGLang asks for top_k=1 at temperature 1 then."""
    torch.manual_seed(0)
    logits = torch.randn(NODES, VOCAB)
    drafted = torch.tensor([0, logits[0].argmax(), 5, logits[1].argmax()])
    top_k = torch.tensor([1, TOP_K_ALL]).repeat(REQUESTS // 2)
    committed = verify(logits, drafted, sampling_info(torch.tensor(1.0), top_k=top_k))
    want = [int(logits[node].argmax()) for node in (0, 1, 3)]
    assert all(tokens == want for tokens in committed[::2])
    agrees([tokens[0] for tokens in committed[1::2]], exact(logits[0], 1.0))


@pytest.mark.usefixtures("host")
def test_a_seed_reaches_the_plain_sampler(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain sampler's function gets the request's seed and the node's position, not a coin."""
    asked = {}

    def plain_sampler(
        probs: torch.Tensor, sampling_seed: torch.Tensor, positions: torch.Tensor
    ) -> torch.Tensor:
        asked.setdefault("first", (sampling_seed.tolist(), positions.tolist()))
        return probs.argmax(-1)

    monkeypatch.setattr(sampling, "sampling_from_probs_torch", plain_sampler)
    monkeypatch.setattr(eagle_utils, "_verify_coins", lambda **_: (None, None))
    info = sampling_info(torch.tensor(1.0))
    info.sampling_seed = torch.arange(REQUESTS)
    verify(torch.randn(NODES, VOCAB), torch.arange(NODES), info)
    assert asked["first"] == (list(range(REQUESTS)), [0] * REQUESTS)
