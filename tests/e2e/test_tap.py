"""The early exit in other model families: the engine's hits are those of transformers' hidden states."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from sglang_mirror.bench.arms import Pair
from sglang_mirror.bench.pair import embedded_pair
from tests.e2e.fleet import Fleet, lockstep_trace, with_draft
from tests.e2e.oracle import DEFAULTS, steps_of_engine, steps_of_simulator
from tests.e2e.reference import reference_models

pytestmark = pytest.mark.server

FAMILIES = ("llama", "qwen2")
LAYERS, NUM_TOKENS = 4, 32
PROMPT = list(range(300, 340))


def save(model: torch.nn.Module, folder: Path, tokenizer: Path) -> None:
    model.save_pretrained(folder)  # type: ignore[operator]
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer / name, folder / name)


def tiny_pair(family: str, folder: Path) -> Pair:
    """A random target, and a draft that is its first half: it agrees now and then."""
    embedded = embedded_pair()
    vocabulary = AutoConfig.from_pretrained(embedded.target).vocab_size
    config = AutoConfig.for_model(
        family,
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        eos_token_id=0,
        tie_word_embeddings=False,
    )
    torch.manual_seed(7)
    target = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, weight in target.named_parameters():
            if weight.dim() > 1:
                weight.mul_(1.0 if "layers." in name else 8.0)  # layers refine what the embedding says
    draft = copy.deepcopy(target)
    draft.model.layers = draft.model.layers[: LAYERS // 2]
    draft.config.num_hidden_layers = LAYERS // 2
    if getattr(draft.config, "layer_types", None):
        draft.config.layer_types = draft.config.layer_types[: LAYERS // 2]
    for name, model in (("target", target), ("draft", draft)):
        save(model, folder / name, embedded.target)
    return Pair(folder / "target", folder / "draft")


@pytest.fixture(scope="module")
def fleets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Fleet]]:
    """A server of each family; they start side by side."""
    folder = tmp_path_factory.mktemp("families")
    found = {family: Fleet(tiny_pair(family, folder / family), label=f"{family}-") for family in FAMILIES}
    try:
        for fleet in found.values():
            fleet.lockstep("exit")
        yield found
    finally:
        left = [process for fleet in found.values() for process in fleet.stop_all()]
    assert not left


@pytest.mark.parametrize("family", FAMILIES)
def test_hits_from_the_exit(fleets: dict[str, Fleet], family: str) -> None:
    tiny = fleets[family]
    models = reference_models(tiny.pair, kappa=DEFAULTS.kappa)
    wanted = steps_of_simulator(models, PROMPT, "exit", NUM_TOKENS)
    server = with_draft(tiny.lockstep("exit"))
    trace = lockstep_trace("exit", tiny.label)
    assert steps_of_engine(server, trace, PROMPT, "tap", NUM_TOKENS) == wanted
    assert 0 < sum(step.source == "exit" for step in wanted) <= len(wanted)
    assert {step.num_accepted for step in wanted} > {0}
