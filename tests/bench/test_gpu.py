"""What the GPU benchmark would run on machines of several kinds, and what it says of one that has none.

A script stands for `nvidia-smi`; what it starts on a GPU is tested on a machine that has one.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from sglang_mirror.bench import gpu
from sglang_mirror.bench.arm_specs import parse_arm
from sglang_mirror.bench.pair import ROOT
from sglang_mirror.errors import MirrorError
from tests.bench.test_arm_specs import SETUP

H200_GIB, H100_GIB = 139.7, 79.2


def shows(gib: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on `nvidia-smi` prints these lines."""
    script = tmp_path / "nvidia-smi"
    script.write_text(f"#!/bin/sh\nprintf '{gib}'\n", encoding="utf-8")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")


@pytest.mark.parametrize(
    ("num_gpus", "shares", "best"),
    [
        (1, False, "draft_device=cuda:0"),
        (1, True, "draft_device=cuda:0,draft_share=25"),
        (2, False, "draft_device=cuda:1"),
        (8, True, "draft_device=cuda:1"),
    ],
)
def test_the_best_place_comes_first_and_has_the_variants(num_gpus: int, shares: bool, best: str) -> None:
    found = gpu.arms(num_gpus, shares=shares)
    assert found[:4] == [
        *(f"mirror:{best}", "standalone", f"serial:{best}"),
        f"mirror:{best},schedule=overlap",
    ]
    assert len(set(found)) == len(found)
    assert ("draft_share" in " ".join(found)) == shares
    assert ("cuda:1" in " ".join(found)) == (num_gpus > 1)
    for text in found:
        assert parse_arm(text, SETUP).name == text


def test_as_many_servers_as_fit() -> None:
    def fit(gib: float) -> list[int]:
        return [gpu.together(shape, gib) for shape in gpu.SHAPES]

    assert fit(H200_GIB) == [4, 2, 1]
    assert fit(H100_GIB) == [2, 1, 0]


def test_free_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shows(r"142000\n71000\n", tmp_path, monkeypatch)
    assert gpu.gpus() == pytest.approx([142000 / 1024, 71000 / 1024])


def test_only_gpus_that_we_may_use_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "nvidia-smi"
    script.write_text('#!/bin/sh\ncase "$*" in *--id=1*) echo 1024;; *) exit 1;; esac\n', encoding="utf-8")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert gpu.gpus() == [1.0]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert gpu.gpus() == []


def test_a_shape_that_does_not_fit_is_named() -> None:
    (said,) = gpu._shape("opt-66b+0.6b", ["mirror"], argparse.Namespace(), H200_GIB)
    assert said == "opt-66b+0.6b did not run: two servers of it do not fit into 140 GiB"


def test_as_many_are_captured_as_are_asked_at_once() -> None:
    args = argparse.Namespace(
        questions=32, tokens=128, concurrency=[1, 32], out=Path("out"), server_flags="--trust-remote-code"
    )
    found = gpu.asked("qwen3-14b+0.6b", ["mirror:draft=none"], args, count=3)
    assert (found.arms, found.concurrency, found.together) == (["mirror:draft=none"], [1, 32], 3)
    assert found.json == Path("out/gpu.json")
    assert "--cuda-graph-max-bs-decode 32" in found.server_flags
    assert found.server_flags.endswith("--trust-remote-code")
    alone = gpu.asked(
        "qwen3-14b+0.6b", ["mirror"], argparse.Namespace(**{**vars(args), "concurrency": [1]}), count=3
    )
    assert "--cuda-graph-max-bs-decode 8" in alone.server_flags


def test_what_fails_is_named_with_its_last_line() -> None:
    with pytest.raises(MirrorError, match=r"No module named sglang_mirror\.nothing"):
        gpu._printed(["sglang_mirror.nothing"])


def test_without_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shows("", tmp_path, monkeypatch)
    command = [sys.executable, "-m", "sglang_mirror.bench.gpu", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr == "gpu: nvidia-smi finds no GPU here\n"
