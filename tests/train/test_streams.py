"""Streams in a model: the main stream is untouched, and a stream sees what it may and nothing else."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3ForCausalLM

from sglang_mirror.errors import MirrorError
from sglang_mirror.train.streams import Streams
from tests.train.test_eagle3 import target

LENGTH, COUNT = 9, 2


def rows(seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 64, (2, LENGTH), generator=torch.Generator().manual_seed(seed))


def llama(num_layers: int = 3, seed: int = 1) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    torch.manual_seed(seed)
    return LlamaForCausalLM(config).eval()


def states(model: Qwen3ForCausalLM | LlamaForCausalLM, tokens: torch.Tensor) -> torch.Tensor:
    """[B, 1 + COUNT, T, width]"""
    with torch.inference_mode():
        found = model.model(input_ids=tokens, use_cache=False).last_hidden_state
    return found.unflatten(1, (1 + COUNT, LENGTH))


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("make", [target, llama])
def test_the_main_stream_is_the_models(make, num_layers: int) -> None:  # type: ignore[no-untyped-def]
    model = make()
    with torch.inference_mode():
        before = model.model(input_ids=rows(), use_cache=False).last_hidden_state
    Streams(model, count=COUNT, num_layers=num_layers)
    torch.testing.assert_close(states(model, rows())[:, 0], before, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("num_layers", [1, 2])
def test_a_stream_sees_no_future(num_layers: int) -> None:
    model = target()
    Streams(model, count=COUNT, num_layers=num_layers)
    tokens = rows()
    changed = tokens.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 64
    one, other = states(model, tokens), states(model, changed)
    torch.testing.assert_close(one[:, :, :5], other[:, :, :5])
    assert not torch.allclose(one[:, 1:, 5:], other[:, 1:, 5:])


def test_a_stream_sees_those_before_it_and_none_behind_it() -> None:
    model = target()
    streams = Streams(model, count=COUNT, num_layers=2)
    before = states(model, rows())
    with torch.no_grad():
        streams.embeddings[1] += 1.0
    last_changed = states(model, rows())
    torch.testing.assert_close(last_changed[:, :2], before[:, :2])
    with torch.no_grad():
        streams.embeddings[0] += 1.0
    assert not torch.allclose(states(model, rows())[:, 2], last_changed[:, 2])


def test_against_one_row_at_a_time() -> None:
    """Position t with its streams alone, behind its text: the same rows, by the plain causal forward.

    In a one-layer model a stream is a token that follows the text, at its own place: its embedding is the
    last token's plus the stream's.
    """
    plain, model = llama(num_layers=1, seed=2), llama(num_layers=1, seed=3)
    model.load_state_dict(plain.state_dict())
    streams = Streams(model, count=COUNT, num_layers=1)
    found = states(model, rows())
    for t in (0, 4, LENGTH - 1):
        text = plain.model.embed_tokens(rows()[:, : t + 1])
        lookahead = text[:, -1:] + streams.embeddings[None]
        with torch.inference_mode():
            wanted = plain.model(inputs_embeds=torch.cat((text, lookahead), 1), use_cache=False)
        torch.testing.assert_close(found[:, :, t], wanted.last_hidden_state[:, t:], atol=1e-5, rtol=1e-5)


def test_refusals() -> None:
    with pytest.raises(MirrorError, match="--layers 9: the model has 6"):
        Streams(target(), count=1, num_layers=9)
    with pytest.raises(MirrorError, match="--streams 0"):
        Streams(target(), count=0, num_layers=1)
