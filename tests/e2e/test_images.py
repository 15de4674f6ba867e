"""A target that sees: the draft reads the prompt without its images, and the text is plain decoding's."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import (
    AutoTokenizer,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from sglang_mirror.bench.arms import Pair
from sglang_mirror.bench.client import Completion, complete, payload
from sglang_mirror.bench.pair import embedded_pair
from sglang_mirror.bench.server import Server
from tests.e2e.fleet import LOCKSTEP, Fleet, both, report, with_draft

pytestmark = pytest.mark.server

START, END, IMAGE, VIDEO = SPECIAL = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
PICTURE = START + IMAGE + END
PATCH, WIDTH, LAYERS = 28, 128, 3


def tiny_pair(folder: Path) -> Pair:
    """A random model of the Qwen2.5-VL kind, and as its draft the part of it that speaks."""
    tokenizer = AutoTokenizer.from_pretrained(embedded_pair().target)
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL)})
    ids = dict(zip(SPECIAL, tokenizer.convert_tokens_to_ids(list(SPECIAL)), strict=True))
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    rope = {"rope_type": "default", "rope_theta": 1e4}
    config = Qwen2_5_VLConfig(
        text_config={**text, "rope_parameters": {**rope, "mrope_section": [4, 6, 6]}},
        vision_config={
            "depth": 1,
            "hidden_size": 64,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": WIDTH,
            "fullatt_block_indexes": [0],
        },
        image_token_id=ids[IMAGE],
        video_token_id=ids[VIDEO],
        vision_start_token_id=ids[START],
        vision_end_token_id=ids[END],
        tie_word_embeddings=False,
    )
    torch.manual_seed(7)
    target = Qwen2_5_VLForConditionalGeneration(config)
    with torch.no_grad():
        target.model.language_model.embed_tokens.weight.mul_(8.0)  # what comes next is mostly the last word's
    draft = Qwen2ForCausalLM(Qwen2Config(**text, rope_parameters=rope))
    draft.model.load_state_dict(target.model.language_model.state_dict())
    draft.lm_head.load_state_dict(target.lm_head.state_dict())
    target.save_pretrained(folder / "target")
    draft.save_pretrained(folder / "draft")
    sees = Qwen2VLImageProcessor(min_pixels=PATCH**2, max_pixels=16 * PATCH**2), tokenizer
    Qwen2_5_VLProcessor(*sees, Qwen2VLVideoProcessor()).save_pretrained(folder / "target")
    tokenizer.save_pretrained(folder / "draft")
    return Pair(folder / "target", folder / "draft")


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    """Plain decoding and mirror of the target that sees."""
    fleet = Fleet(tiny_pair(tmp_path_factory.mktemp("seeing")), label="seeing-")
    try:
        plain, mirror = fleet.plain(), fleet.mirror(**LOCKSTEP)
        yield plain.wait(), with_draft(mirror)
    finally:
        left = fleet.stop_all()
    assert not left


def picture(width: int, height: int) -> str:
    written = io.BytesIO()
    Image.effect_noise((width, height), 60).convert("RGB").save(written, "PNG")
    return base64.b64encode(written.getvalue()).decode()


def ask(server: Server, text: str, pictures: list[str]) -> Completion:
    body = payload(text, num_tokens=40)
    return complete(server.url, {**body, "image_data": pictures} if pictures else body)


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("def add(", []),
        (f"{PICTURE}def add(", [(112, 84)]),
        (f"{PICTURE} and {PICTURE} are", [(56, 56), (84, 140)]),
    ],
)
def test_text_is_plain_decodings(
    seeing: tuple[Server, Server], text: str, sizes: list[tuple[int, int]]
) -> None:
    pictures = [picture(*size) for size in sizes]
    before = report(seeing[1])["accepted"]
    plain, mirror = both(seeing, lambda server: ask(server, text, pictures))
    assert mirror.token_ids == plain.token_ids
    assert mirror.meta["prompt_tokens"] == plain.meta["prompt_tokens"] > 4 * len(pictures)
    assert report(seeing[1])["accepted"] > before
