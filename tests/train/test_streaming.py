"""A streaming draft's training: what its loss is, that it falls, and that what is written can be read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from sglang_mirror.bench.pair import embedded_pair
from sglang_mirror.errors import MirrorError
from sglang_mirror.train.data import Windows
from sglang_mirror.train.optim import Budget
from sglang_mirror.train.shapes import draft_config
from sglang_mirror.train.start import start_model
from sglang_mirror.train.streaming import (
    STREAM_WEIGHT,
    StreamingModel,
    load_streaming,
    save_streaming,
    streaming_loss,
)
from sglang_mirror.train.streams import FILE
from sglang_mirror.train.trainer import Plan, Trainer
from tests.train.test_eagle3 import target
from tests.train.test_trainer import PLAN, windows

__all__ = ["windows"]


def test_each_streams_token_is_so_far_ahead() -> None:
    student = StreamingModel(target(), count=2, num_layers=1)
    tokens = torch.randint(0, 64, (2, 9), generator=torch.Generator().manual_seed(3))
    inputs, labels = tokens[:, :-1], tokens[:, 1:]
    found = streaming_loss(student, None, compiled=False)(inputs, labels)
    with torch.autocast("cpu", torch.bfloat16):
        logits = student(inputs).float()
    wanted = sum(
        (STREAM_WEIGHT if ahead else 1.0)
        * torch.stack(
            [
                F.cross_entropy(logits[b, ahead, t], tokens[b, t + 1 + ahead])
                for b in range(2)
                for t in range(8 - ahead)
            ]
        ).mean()
        for ahead in range(3)
    )
    torch.testing.assert_close(found, wanted)


def test_training_lowers_its_loss_and_goes_on_where_it_was(windows: Windows, tmp_path: Path) -> None:
    def trainer(path: Path) -> Trainer:
        student = StreamingModel(target(), count=2, num_layers=1)
        loss = streaming_loss(student, target(), compiled=False)
        return Trainer(student, loss, windows, plan, path)

    plan = Plan(Budget(tokens=PLAN.budget.tokens), tokens_per_step=64, window_len=16, long_window_len=32)
    whole = trainer(tmp_path / "whole.pt")
    whole.train(max_steps=1)
    first = whole.last_loss
    whole.train()
    assert whole.last_loss < first
    trainer(tmp_path / "parts.pt").train(max_steps=3)
    resumed = trainer(tmp_path / "parts.pt")
    assert resumed.step == 3
    resumed.train()
    assert resumed.last_loss == pytest.approx(whole.last_loss, rel=1e-5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    source = embedded_pair().draft
    student = StreamingModel(start_model(source.parent, "draft", draft_config()), count=2, num_layers=1)
    save_streaming(student, source, tmp_path / "streaming", "# a draft\n")
    return tmp_path / "streaming"


def test_what_is_written_can_be_read(folder: Path) -> None:
    student = load_streaming(folder)
    assert student.streams.count == 2
    plain = start_model(embedded_pair().draft.parent, "draft", draft_config()).eval()
    rows = torch.arange(20)[None]
    with torch.inference_mode():
        torch.testing.assert_close(student(rows)[:, 0], plain(rows).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"count": 3, "layers": 1}, "3 streams need embeddings (3, 128), found (2, 128)"),
        ({"count": 2, "layers": 9}, "--layers 9"),
        (None, "no streaming draft"),
    ],
)
def test_refusals(folder: Path, change: dict[str, int] | None, said: str) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "mirror_streams": change}))
    with pytest.raises(MirrorError) as error:
        load_streaming(folder)
    assert said in str(error.value)


def test_a_missing_embedding(folder: Path) -> None:
    (folder / FILE).unlink()
    with pytest.raises(MirrorError, match="promises 2 streams"):
        load_streaming(folder)
