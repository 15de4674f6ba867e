"""The tap's own reading of the head, in part: ids below a bound, or a rank's own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sglang.srt.layers.vocab_parallel_embedding import ParallelLMHead, pad_vocab_size
from torch import nn
from transformers import PretrainedConfig

from sglang_mirror.config import MirrorConfig
from sglang_mirror.engine.tap import Tap, early_exit
from sglang_mirror.errors import SettingsError

WIDTH, VOCAB = 8, 30


class Block(nn.Module):
    def forward(self, positions: Any, hidden_states: Any, forward_batch: Any, residual: Any) -> Any:  # noqa: ARG002
        return hidden_states, residual


def model_with(**processor: Any) -> Any:
    """What the tap asks of SGLang's models."""
    return SimpleNamespace(
        model=SimpleNamespace(layers=[Block(), Block()], norm=nn.Identity()),
        lm_head=nn.Linear(WIDTH, VOCAB, bias=False),
        logits_processor=SimpleNamespace(
            _compute_lm_head=lambda rows, head: rows @ head.weight.T, **processor
        ),
        config=PretrainedConfig(vocab_size=VOCAB),
    )


def test_a_part_of_the_head_gives_the_logits_of_its_tokens() -> None:
    model = model_with(final_logit_softcapping=None, logit_scale=None)
    tap = Tap(model, None)
    tap.limit(10)
    hidden = torch.randn(3, WIDTH)
    torch.testing.assert_close(tap.logits(hidden, None), model.lm_head(hidden)[:, :10])


@pytest.mark.parametrize("name", ["language_model", "llm", "model"])
def test_the_language_model_within_a_model_of_images(name: str) -> None:
    inner = model_with()
    tap = Tap(SimpleNamespace(vision=nn.Identity(), **{name: inner}), None)
    assert (tap.ids, tap._model, tap._last) == (range(VOCAB), inner, inner.model.layers[-1])


def test_layers_of_an_unknown_kind_are_named() -> None:
    with pytest.raises(SettingsError, match=r"SimpleNamespace is no model .* use --mirror-roots draft"):
        Tap(SimpleNamespace(language_model=nn.Identity()), None)


@pytest.mark.parametrize("settings", [{"roots": "union"}, {"exit_layer": 1}])
@pytest.mark.parametrize("barrier", [None, "--nnodes 2: no"])
def test_without_an_exit_the_draft_guesses_alone_unless_it_is_asked_for(
    settings: dict[str, Any], barrier: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    model = SimpleNamespace(language_model=nn.Identity())

    def found(config: MirrorConfig) -> Any:
        group = SimpleNamespace(world_size=1)
        return early_exit(model, config, topk=1, most_nodes=8, group=group, barrier=barrier)

    reason = barrier or "is no model whose layers"
    assert found(MirrorConfig()) is None
    assert reason in caplog.text
    with pytest.raises(SettingsError, match=reason):
        found(MirrorConfig(**settings))


def test_what_is_done_to_logits_afterwards_forbids_it() -> None:
    with pytest.raises(SettingsError, match=r"--mirror-exit-vocab 10.*logit_scale"):
        Tap(model_with(final_logit_softcapping=None, logit_scale=0.5), None).limit(10)


def test_a_quantized_head_forbids_it() -> None:
    model = model_with()
    model.lm_head = SimpleNamespace(weight=torch.zeros(VOCAB, WIDTH, dtype=torch.int8))
    with pytest.raises(SettingsError, match="quantized"):
        Tap(model, None).limit(10)


def split_model(vocabulary: int, rank: int, ranks: int) -> tuple[Any, torch.Tensor]:
    """A rank's model, with SGLang's own indices; and the whole head. What pads the rank's part would win."""
    whole = torch.randn(vocabulary, WIDTH, generator=torch.Generator().manual_seed(1))
    padded = pad_vocab_size(vocabulary, 64 * ranks)
    indices = ParallelLMHead._get_indices(padded, padded, vocabulary, vocabulary, rank, ranks)
    own = whole[indices.org_vocab_start_index : indices.org_vocab_end_index]
    filled = torch.cat((own, torch.full((padded // ranks - len(own), WIDTH), 1e6)))
    model = model_with(final_logit_softcapping=None, logit_scale=None, do_tensor_parallel_all_gather=True)
    model.lm_head = SimpleNamespace(weight=filled, shard_indices=indices, tp_size=ranks)
    model.config.vocab_size = vocabulary
    return model, whole


# An odd one, one whose last ranks have no ids, and one that needs no padding.
@pytest.mark.parametrize("vocabulary", [200, 70, 256])
@pytest.mark.parametrize("bound", [None, 100])
def test_the_ranks_together_read_every_id_once(vocabulary: int, bound: int | None) -> None:
    """Ids, and logits where they are limited; whole parts go through SGLang's processor (tests/e2e)."""
    hidden, ids = torch.randn(3, WIDTH), []
    for rank in range(4):
        model, whole = split_model(vocabulary, rank, 4)
        tap = Tap(model, None)
        tap.split(4)
        if bound is not None:
            tap.limit(bound)
            torch.testing.assert_close(tap.logits(hidden, None), hidden @ whole[list(tap.ids)].T)
        ids += tap.ids
    assert ids == list(range(min(vocabulary, bound or vocabulary)))


def test_a_rank_does_not_gather_the_others_logits() -> None:
    model, _ = split_model(200, 1, 2)
    tap = Tap(model, None)
    tap.split(2)
    assert not tap._processor.do_tensor_parallel_all_gather
    assert model.logits_processor.do_tensor_parallel_all_gather, "the target's own goes on as it was"


@pytest.mark.parametrize("ranks", [1, 4])
def test_a_head_that_is_not_split_like_the_target(ranks: int) -> None:
    model, _ = split_model(200, 0, ranks)
    with pytest.raises(SettingsError, match=r"--tp-size.*--mirror-roots draft"):
        Tap(model, None).split(2)


def test_a_head_without_ids() -> None:
    with pytest.raises(SettingsError, match=r"--tp-size.*--mirror-roots draft"):
        Tap(model_with(), None).split(2)


class Taken:
    """A sink that wants everything."""

    def __init__(self) -> None:
        self.hidden: list[torch.Tensor] = []

    def wants(self, _batch: Any) -> bool:
        return True

    def take(self, hidden: torch.Tensor, _batch: Any) -> None:
        self.hidden.append(hidden)

    def finish(self) -> None:
        pass


def test_a_sum_that_the_ranks_still_owe_is_not_taken(caplog: pytest.LogCaptureFixture) -> None:
    """Up to 0.5.20 SGLang may leave it to the next norm. The user is told, once."""
    model, taken = model_with(), Taken()
    Tap(model, None).connect(taken)
    hidden, residual = torch.ones(2, WIDTH), torch.ones(2, WIDTH)
    model.model.layers[1](None, hidden, None, residual)
    hidden._sglang_needs_allreduce_fusion = True  # type: ignore[attr-defined]
    for _ in range(2):
        model.model.layers[1](None, hidden, None, residual)
    [found] = taken.hidden
    assert torch.equal(found, hidden + residual)
    [record] = caplog.records
    assert "--enforce-disable-flashinfer-allreduce-fusion" in record.getMessage()


class CallbackBlock(nn.Module):
    """A layer of SGLang 0.5.21 and later: it lends its input to a callback, then works on it in place."""

    owned = False

    def forward(self, hidden_states: Any, forward_batch: Any, capture_output: Any = None) -> Any:  # noqa: ARG002
        if capture_output is not None:
            capture_output(hidden_states, owned=self.owned)
        return hidden_states.mul_(2)


@pytest.mark.parametrize("owned", [False, True])
def test_what_is_lent_is_copied(owned: bool) -> None:
    model, taken = model_with(), Taken()
    model.model.layers = [CallbackBlock(), CallbackBlock()]
    model.model.layers[1].owned = owned
    Tap(model, None).connect(taken)
    hidden = torch.ones(2, WIDTH)
    model.model.layers[1](hidden, None)
    [found] = taken.hidden
    assert (found is hidden) == owned
    assert owned or found.eq(1).all()


def test_another_callbacks_tensor_is_its_own() -> None:
    model, taken, theirs = model_with(), Taken(), list[torch.Tensor]()
    model.model.layers = [CallbackBlock(), CallbackBlock()]
    model.model.layers[1].owned = True
    Tap(model, None).connect(taken)
    model.model.layers[1](
        torch.ones(2, WIDTH),
        None,
        capture_output=lambda hidden, **_: theirs.append(hidden),
    )
    assert theirs[0] is not taken.hidden[0]
