"""An enlarged model computes what the small one does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM, AutoTokenizer

from sglang_mirror.bench.pair import embedded_pair, held_out
from sglang_mirror.errors import MirrorError
from sglang_mirror.train.eagle3 import Drafted, Eagle3Head
from sglang_mirror.train.eagle3_recipe import export_head
from sglang_mirror.upscale.folder import enlarged_weights, load_enlarged, make_folder, make_head_folder
from sglang_mirror.upscale.shape import SHAPES, Shape, live_layers, parse_shape

TARGET = embedded_pair().target
SMALL = Shape.of_config(json.loads((TARGET / "config.json").read_text()))
# Wider, deeper, more query heads to a key head, more vocabulary; and no size a multiple of the small one's.
LARGE = Shape(448, 1000, 13, 12, 4, 64, 5000)
DRAFT_SHAPES = ("12m", "33m")
TARGET_SHAPES = {name: shape for name, shape in SHAPES.items() if name not in DRAFT_SHAPES}


@torch.inference_mode()
def test_the_same_function(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(TARGET)
    rows = torch.tensor([tokenizer.encode(prompt.text)[:48] for prompt in held_out(40, long=True)][:4])
    small = AutoModelForCausalLM.from_pretrained(TARGET, dtype=torch.float32).eval()
    large = load_enlarged(make_folder(TARGET, LARGE, tmp_path / "large"), torch.float32)
    said = small(rows, output_hidden_states=True)
    found = large(rows, output_hidden_states=True)
    torch.testing.assert_close(found.logits[..., : SMALL.vocab_size], said.logits, atol=2e-3, rtol=1e-3)
    assert torch.equal(found.logits.argmax(-1), said.logits.argmax(-1))
    half = found.hidden_states[LARGE.num_hidden_layers // 2]
    wanted = said.hidden_states[SMALL.num_hidden_layers // 2]
    torch.testing.assert_close(half[..., : SMALL.hidden_size], wanted, atol=1e-3, rtol=1e-3)
    assert not half[..., SMALL.hidden_size : -1].any()


@torch.inference_mode()
def test_an_eagle3_head_is_the_same_function_too(tmp_path: Path) -> None:
    """Over two steps of its own: the second reads what the first made."""
    small = AutoModelForCausalLM.from_pretrained(TARGET, dtype=torch.float32).eval()
    torch.manual_seed(5)
    head = Eagle3Head(small).to(torch.bfloat16).float()
    export_head(head, small, TARGET, tmp_path / "head", "")
    target = make_folder(TARGET, LARGE, tmp_path / "target")
    folder = make_head_folder(tmp_path / "head", target, tmp_path / "large-head")
    large = load_enlarged(target, torch.float32)
    large_head = Eagle3Head(large)
    weights = enlarged_weights(folder, load_file(folder / "model.safetensors").items())
    large_head.load_state_dict(dict(weights))
    layers = json.loads((folder / "config.json").read_text())["eagle_config"]
    read_after = [layer + 1 for layer in layers["eagle_aux_hidden_state_layer_ids"]]
    large_head.feature_layers = tuple(read_after)

    rows = torch.tensor([AutoTokenizer.from_pretrained(TARGET).encode(held_out(1)[0].text)])
    said = []
    for model, its_head in ((small, head), (large, large_head)):
        features = its_head.features(model.model(rows, output_hidden_states=True).hidden_states)
        drafted = Drafted([], [])
        for _ in range(2):
            features = its_head.step(rows, features, drafted)
        said.append(its_head.logits(features))
    torch.testing.assert_close(said[1][..., : SMALL.vocab_size], said[0], atol=2e-3, rtol=1e-3)
    assert torch.equal(said[1].argmax(-1), said[0].argmax(-1))


@pytest.mark.parametrize("default", [torch.float32, torch.bfloat16])
def test_weights_are_the_same_wherever_they_are_made(tmp_path: Path, default: torch.dtype) -> None:
    """And whatever a loader has made the default dtype: SGLang's makes it the model's."""
    folder = make_folder(TARGET, LARGE, tmp_path / "large")
    small = load_file(folder / "model.safetensors")
    wanted = dict(enlarged_weights(folder, small.items(), "cpu"))
    torch.set_default_dtype(default)
    try:
        found = dict(enlarged_weights(folder, small.items()))
    finally:
        torch.set_default_dtype(torch.float32)
    assert list(found) == list(wanted)
    assert found["model.norm.weight"].dtype == torch.float32
    for name, weight in wanted.items():
        assert found[name].dtype == weight.dtype
        assert torch.equal(found[name].cpu(), weight)


def test_every_weight_is_made_on_the_device(tmp_path: Path) -> None:
    """On tensors that have a device and no numbers."""
    folder = make_folder(TARGET, LARGE, tmp_path / "large")
    small = load_file(folder / "model.safetensors")
    with FakeTensorMode(allow_non_fake_inputs=True):
        devices = {weight.device.type for _, weight in enlarged_weights(folder, small.items(), "cuda")}
    assert devices == {"cuda"}


def test_half_depth_stays_half_depth() -> None:
    for large in TARGET_SHAPES.values():
        places = live_layers(SMALL, large)
        half = large.num_hidden_layers // 2
        assert sum(place < half for place in places) == SMALL.num_hidden_layers // 2
        assert len(set(places)) == SMALL.num_hidden_layers


def test_every_named_shape_holds_the_embedded_pairs_model() -> None:
    for large in TARGET_SHAPES.values():
        assert large.holds(SMALL) == []
    draft = Shape.of_config(json.loads((embedded_pair().draft / "config.json").read_text()))
    assert all(SHAPES[name].holds(draft) == [] for name in DRAFT_SHAPES)


@pytest.mark.parametrize(
    ("name", "billions"), [("qwen3-14b", 14.8), ("qwen3-32b", 32.8), ("mistral-24b", 23.6)]
)
def test_named_shapes_are_as_large_as_their_name(name: str, billions: float) -> None:
    assert SHAPES[name].num_parameters / 1e9 == pytest.approx(billions, rel=0.02)


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(MirrorError, match="hidden_size 128: must be at least 256"):
        make_folder(TARGET, Shape(128, 1000, 13, 12, 4, 64, 4096), tmp_path)
    with pytest.raises(MirrorError, match="head_dim 128: must be 64"):
        make_folder(TARGET, Shape(512, 1000, 13, 12, 4, 128, 4096), tmp_path)
    with pytest.raises(MirrorError, match="1 query heads a key head"):
        make_folder(TARGET, Shape(512, 1000, 13, 4, 4, 64, 4096), tmp_path)
    with pytest.raises(MirrorError, match=r"0\.25b, 0\.6b"):
        parse_shape("13b")
    assert parse_shape("448x1000x13x12x4x64x5000") == LARGE
