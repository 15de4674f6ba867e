"""Where the draft computes, and how a GPU that it shares with its target is divided."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sglang_mirror.config import MirrorConfig
from sglang_mirror.engine import placing
from sglang_mirror.engine.supervisor import _command


def arguments(**changed: Any) -> SimpleNamespace:
    """SGLang's settings, as far as they say where its ranks are."""
    usual = {"device": "cuda", "base_gpu_id": 0, "gpu_id_step": 1, "tp_size": 1, "dp_size": 1, "nnodes": 1}
    return SimpleNamespace(**{**usual, **changed})


@pytest.mark.parametrize(
    ("args", "gpus"),
    [
        ({}, [0]),
        ({"device": "cpu"}, []),
        ({"tp_size": 4}, [0, 1, 2, 3]),
        ({"tp_size": 2, "base_gpu_id": 2}, [2, 3]),
        ({"tp_size": 2, "gpu_id_step": 2}, [0, 2]),
        ({"tp_size": 2, "dp_size": 2}, [0, 1, 2, 3]),
        ({"tp_size": 8, "nnodes": 2}, [0, 1, 2, 3]),
    ],
)
def test_the_targets_gpus(args: dict[str, Any], gpus: list[int]) -> None:
    assert placing.target_gpus(arguments(**args)) == gpus


@pytest.mark.parametrize(
    ("wanted", "args", "num_gpus", "device"),
    [
        ("auto", {"device": "cpu"}, 0, "cpu"),
        ("auto", {"device": "cpu"}, 1, "cuda:0"),
        ("auto", {}, 1, "cpu"),
        ("auto", {}, 2, "cuda:1"),
        ("auto", {"tp_size": 2}, 4, "cuda:2"),
        ("auto", {"tp_size": 2, "base_gpu_id": 2}, 4, "cuda:0"),
        ("auto", {"tp_size": 2}, 2, "cpu"),
        ("cuda:0", {}, 1, "cuda:0"),
        ("cpu", {}, 2, "cpu"),
    ],
)
def test_auto_takes_a_gpu_that_the_target_leaves_free(
    wanted: str, args: dict[str, Any], num_gpus: int, device: str
) -> None:
    found, _ = placing.draft_place(MirrorConfig(draft_device=wanted), arguments(**args), num_gpus=num_gpus)
    assert found == device


def test_each_replica_has_a_draft_of_its_own() -> None:
    args = arguments(tp_size=2, dp_size=3, base_gpu_id=1)
    replicas = [placing.replica_of(args, gpu) for gpu in placing.target_gpus(args)]
    assert replicas == [0, 0, 1, 1, 2, 2]
    found = [
        placing.draft_place(MirrorConfig(), args, num_gpus=9, replica=replica)[0] for replica in range(3)
    ]
    assert found == ["cuda:0", "cuda:7", "cuda:8"]
    assert placing.draft_place(MirrorConfig(), args, num_gpus=8, replica=2)[0] == "cuda:0"


@pytest.mark.parametrize(
    ("settings", "args", "threads"),
    [
        ({"draft_device": "cpu"}, {}, max(1, len(os.sched_getaffinity(0)) // 2)),
        ({"draft_device": "cpu"}, {"device": "cpu"}, 1),
        ({"draft_device": "cuda:1"}, {}, 1),
        ({"draft_device": "cpu", "draft_threads": 3}, {}, 3),
    ],
)
def test_a_draft_on_cores_that_wait_for_a_gpu_has_half_of_them(
    settings: dict[str, Any], args: dict[str, Any], threads: int
) -> None:
    assert placing.draft_place(MirrorConfig(**settings), arguments(**args), num_gpus=2)[1] == threads


@pytest.fixture
def mps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is seen of a Multi-Process Service that runs: the socket that it listens on."""
    monkeypatch.chdir(tmp_path)  # a socket's path has to be short
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind("control")
        yield


SHARED = {"draft_model": "d", "draft_device": "cuda:0", "draft_share": 25}


@pytest.mark.usefixtures("mps")
@pytest.mark.parametrize(
    ("args", "changed", "said"),
    [
        ({}, {}, ""),
        ({}, {"draft_share": None, "draft_device": "cpu"}, ""),
        ({"base_gpu_id": 1}, {"draft_device": "cuda:1"}, ""),
        ({}, {"draft_device": "auto"}, "the target has cuda:0 and the draft auto; give both the same"),
        ({}, {"draft_device": "cuda:1"}, "the draft cuda:1; give both the same"),
        ({"tp_size": 2}, {}, "the target has cuda:0, cuda:1 and the draft cuda:0"),
        ({"device": "cpu"}, {}, "the target has the host's cores"),
        ({}, {"draft_endpoint": "ipc:///d"}, "the draft at ipc:///d is not started by us"),
    ],
)
def test_what_a_share_needs(args: dict[str, Any], changed: dict[str, Any], said: str) -> None:
    config = MirrorConfig(**{**SHARED, **changed})  # type: ignore[arg-type]
    problems = placing.problems(arguments(**args), config, num_gpus=2)
    assert len(problems) == (said != "")
    assert said in "".join(problems)


@pytest.mark.parametrize("kind", ["nothing", "a file", "a pipe"])
def test_a_share_needs_the_service(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    if kind == "a file":
        (tmp_path / "control").touch()
    if kind == "a pipe":
        os.mkfifo(tmp_path / "control")
    problems = placing.problems(arguments(), MirrorConfig(**SHARED), num_gpus=1)  # type: ignore[arg-type]
    assert len(problems) == 1
    assert "--mirror-draft-share 25: CUDA's Multi-Process Service does not run" in problems[0]
    assert "nvidia-cuda-mps-control -d" in problems[0]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"draft_cpus": "4096"}, "--mirror-draft-cpus 4096: cannot be kept to"),
        ({"draft_cpus": "one"}, "--mirror-draft-cpus one: give CPU numbers"),
        ({"draft_device": "cuda:2"}, "--mirror-draft-device cuda:2: this host has 2 GPUs"),
        ({"draft_device": "cuda:x"}, "--mirror-draft-device cuda:x: give cuda:NUMBER"),
        ({"draft_device": "cuda:1", "draft_cpus": "0"}, ""),
        ({"draft_device": "cuda"}, ""),
        ({"draft_device": "cpu", "draft_memory_gb": 4.0}, "--mirror-draft-memory-gb 4: only a GPU's memory"),
        ({"draft_device": "cuda:1", "draft_memory_gb": 4.0}, ""),
        ({"draft_device": "cuda:2", "draft_cpus": "4096", "draft_endpoint": "ipc:///d"}, ""),
    ],
)
def test_where_a_draft_of_ours_cannot_be(changed: dict[str, Any], said: str) -> None:
    before = os.sched_getaffinity(0)
    found = placing.problems(arguments(), MirrorConfig(**changed), num_gpus=2)
    assert len(found) == (said != "")
    assert said in "".join(found)
    assert os.sched_getaffinity(0) == before


def test_each_side_gets_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(placing.SHARE, raising=False)
    placing.hold_target(MirrorConfig())
    assert placing.SHARE not in os.environ
    config = MirrorConfig(**SHARED)  # type: ignore[arg-type]
    monkeypatch.setenv(placing.SHARE, "")  # to be taken back with the test
    placing.hold_target(config)
    assert os.environ[placing.SHARE] == "75"
    assert _command(config, "ipc:///d", "cuda:0", 1).environment == {placing.SHARE: "25"}
    assert not _command(MirrorConfig(draft_model="d"), "ipc:///d", "cpu", 1).environment
