"""Weights that are replaced while the server serves: from then on they decode, the packed copies included."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from sglang_mirror.bench.server import Server
from tests.e2e.fleet import Fleet, generate_all, prompts, texts

pytestmark = pytest.mark.server

NUM_TOKENS = 24


@pytest.fixture
def other_weights(fleet: Fleet, tmp_path: Path) -> Path:
    """The target with every matrix a little smaller: it writes another text."""
    folder = tmp_path / "other"
    shutil.copytree(fleet.pair.target, folder)
    file = folder / "model.safetensors"
    weights = load_file(file)
    save_file({name: w * 0.9 if w.dim() == 2 else w for name, w in weights.items()}, file, {"format": "pt"})
    return folder


@pytest.fixture
def own_text(
    plain_server: Server, mirror_server: Server, fleet: Fleet, other_weights: Path
) -> Iterator[list[str]]:
    """Mirror's text with the weights that both servers had; meanwhile they have the others."""
    servers = (plain_server, mirror_server)
    found = _texts(mirror_server)
    try:
        for server in servers:
            _update(server, other_weights)
        yield found
    finally:
        for server in servers:
            _update(server, fleet.pair.target)


def _texts(server: Server) -> list[str]:
    return texts(generate_all(server, prompts(3), NUM_TOKENS))


def _update(server: Server, folder: Path) -> None:
    answer = httpx.post(
        f"{server.url}/update_weights_from_disk", json={"model_path": str(folder)}, timeout=60
    )
    assert answer.json()["success"], answer.text


def _continued(folder: Path, asked: list[str]) -> list[str]:
    """Greedy text by transformers, in fp32."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = []
    for prompt in asked:
        ids = torch.tensor([tokenizer.encode(prompt)])
        written = model.generate(ids, max_new_tokens=NUM_TOKENS, do_sample=False)[0, ids.shape[1] :]
        found.append(tokenizer.decode(written, skip_special_tokens=True))
    return found


def test_new_weights_decode(
    own_text: list[str], plain_server: Server, mirror_server: Server, other_weights: Path
) -> None:
    expected = _continued(other_weights, prompts(3))
    assert expected != own_text
    assert _texts(plain_server) == expected
    assert _texts(mirror_server) == expected


def test_own_weights_decode_again(mirror_server: Server, fleet: Fleet) -> None:
    assert _texts(mirror_server) == _continued(fleet.pair.target, prompts(3))
