"""The timing command on a CPU, where there is one way to compute."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sglang_mirror.bench import gpu
from sglang_mirror.draft import timing
from sglang_mirror.draft.backends import load_backend
from sglang_mirror.draft.backends.scripted import ScriptedBackend, hash_script
from sglang_mirror.draft.scheduler import Limits
from sglang_mirror.draft.timing_served import Served
from tests.draft.tiny import VOCAB, make


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
    assert found["torch"]["service_ms"]["median"] > 0
    # Three levels, of which the first may come with the window's last node or behind it.
    assert found["torch"]["service_forwards"] in (3, 4)
    assert found["torch"]["vocabulary"] == VOCAB


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        (["--shape", "64x96x2x4x2x16x800"], 800),  # of an enlarged model the whole head
        (["--shape", "64x96x2x4x2x16x800", "--vocabulary", "300"], 300),
        (["--vocabulary", "all"], 90),
        ([], 60),
    ],
)
def test_candidates_are_chosen_from_as_many_ids_as_a_real_draft_has(
    options: list[str], ids: int, tmp_path: Path
) -> None:
    folder = make("qwen3", tmp_path, vocab_size=90)
    vocabulary = {f"t{token}": token for token in range(60)}
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE", "vocab": vocabulary}}))
    few = "--device cpu --rows 1 --roots 2 --gamma 2 --text 20 --repeats 2 --eager-repeats 0"
    args = timing.parser().parse_args(["--model", str(folder), *few.split(), *options])
    assert timing.run(args)["torch"]["vocabulary"] == ids


def test_no_ids_to_choose_from(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        timing.parser().parse_args(["--model", "m", "--vocabulary", "0"])
    assert "give 1 or more, or all" in capsys.readouterr().err


def served(max_len: int) -> tuple[Served, ScriptedBackend]:
    """Three requests in the service, of which one has no roots."""
    backend = ScriptedBackend(hash_script(61), vocab_size=61, max_len=max_len)
    return Served(backend, Limits(), num_roots=[6, 5, 0], text_len=40, gamma=4), backend


def test_a_step_of_the_service_makes_every_branch_anew() -> None:
    steps, backend = served(2000)
    for _ in range(5):
        before = backend.num_forwards, backend.num_rows
        steps.run()
        assert 4 <= steps.num_forwards == backend.num_forwards - before[0] <= 5
        assert backend.num_rows - before[1] >= 11 * 4


def test_where_a_text_comes_to_the_models_end_it_begins_anew() -> None:
    steps, _ = served(64)
    for _ in range(30):
        steps.run()
    assert all(each.num_committed <= 64 for each in steps._requests.values())


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
