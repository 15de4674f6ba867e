"""Where training runs: a device that is not there is refused, and nothing stays behind on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from sglang_mirror.errors import MirrorError
from sglang_mirror.train.attention import NAME
from sglang_mirror.train.beside import arguments, begin
from sglang_mirror.train.data import Windows
from sglang_mirror.train.device import training_device
from sglang_mirror.train.eagle3 import Eagle3Head, eagle3_loss
from sglang_mirror.train.pretrain import next_token_and_exit_loss
from sglang_mirror.train.streaming import StreamingModel, streaming_loss
from sglang_mirror.train.trainer import Loss
from tests.train.test_eagle3 import target
from tests.train.test_trainer import PLAN, Trainer, tiny, windows

__all__ = ["windows"]


def test_a_device_that_is_there() -> None:
    assert training_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "meta", "cuda:99"])
def test_one_that_is_not(name: str) -> None:
    with pytest.raises(
        MirrorError, match=rf"^--device {name}: .*; give cpu, or cuda on a machine with a GPU$"
    ):
        training_device(name)


def test_a_recipe_says_so_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    asked = arguments(None, gets="streaming", minutes=1).parse_args(["--device", "gpu"])
    asked.threads = torch.get_num_threads()
    with pytest.raises(SystemExit, match="2"):
        begin(asked)
    assert len(capsys.readouterr().err.splitlines()) == 1


def streaming() -> Loss:
    return streaming_loss(StreamingModel(target(), count=2, num_layers=1), target(), compiled=False)


def eagle3() -> Loss:
    model = target()
    return eagle3_loss(Eagle3Head(model), model, compiled=False)


def blocks() -> Loss:
    model = target()
    model.set_attn_implementation(NAME)
    return next_token_and_exit_loss(model, compiled=False)


@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
@pytest.mark.parametrize("make", [streaming, eagle3, blocks])
def test_a_loss_is_computed_where_its_rows_are(make) -> None:  # type: ignore[no-untyped-def]
    """On tensors that have a device and no numbers: a product of two devices' raises."""
    with FakeTensorMode():
        with torch.device("cuda"):
            loss, rows = make(), torch.zeros(2, 17, dtype=torch.int64)
        assert loss(rows[:, :-1], rows[:, 1:]).device.type == "cuda"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_what_a_gpu_began_a_cpu_goes_on_with(windows: Windows, tmp_path: Path) -> None:
    def trainer(device: str) -> Trainer:
        student = StreamingModel(tiny(), count=2, num_layers=1).to(device)
        loss = streaming_loss(student, tiny(seed=1).to(device), compiled=False)
        return Trainer(student, loss, windows, PLAN, tmp_path / "checkpoint.pt")

    begun = trainer("cuda")
    begun.train(max_steps=3)
    resumed = trainer("cpu")
    assert resumed.step == 3
    resumed.train()
    assert resumed.step == 12
