"""The timing command on a CPU, where there is one way to compute."""

from __future__ import annotations

from pathlib import Path

import pytest

from sglang_mirror.bench import gpu
from sglang_mirror.draft import timing
from sglang_mirror.draft.backends import load_backend
from tests.draft.tiny import make


def test_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = (
        "--device cpu --rows 1 3 --roots 5 --requests 2 --gamma 3 --text 150 --repeats 2 --eager-repeats 0 "
        "--profile"
    )
    found = timing.run(
        timing.parser().parse_args(["--model", str(make("qwen3", tmp_path)), *options.split()])
    )
    assert "torch-eager" not in found
    assert "torch-fused" not in found
    assert "torch-fused is left out: " in capsys.readouterr().err
    assert list(found["torch"]["forward_ms"]) == [1, 3]
    spent = [kernel["ms"] for kernel in found["torch"]["kernels"].values()]
    assert spent[0] > 0
    assert spent == sorted(spent, reverse=True)
    assert found["torch"]["draft_ms"]["p10"] <= found["torch"]["draft_ms"]["p90"]


def test_a_rollout_is_the_drafts_own_text(tmp_path: Path) -> None:
    """Each branch is what the draft would say behind the text and the branch's root alone."""
    backend = load_backend("torch", model=str(make("llama", tmp_path)), device="cpu", dtype="auto", threads=1)
    branches = []
    for roots in (4, 1):
        said: list[list[int]] = []
        rollouts = timing.Rollouts(backend, num_requests=1, num_roots=roots, text_len=20)
        level = rollouts._level

        def noted(request: int, depth: int, tokens: list[int], level=level, said=said):  # type: ignore[no-untyped-def]
            said.append(list(tokens))
            return level(request, depth, tokens)

        rollouts._level = noted  # type: ignore[method-assign]
        rollouts.run(4)
        branches.append([tokens[0] for tokens in said])
    assert branches[0] == branches[1]


def test_gpu_benchs_command_is_one() -> None:
    module, *options = gpu.small()["gpu-draft"]
    args = timing.parser().parse_args(options)
    assert module == timing.__name__
    assert (args.device, args.roots, args.gamma) == ("cuda", 64, 7)
    assert (Path(args.model) / "config.json").is_file()
