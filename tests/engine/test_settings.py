"""SGLang's settings: what mirror takes over, fills in and refuses."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sglang_mirror.engine import settings


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever a test exports is gone after it."""
    for name in list(os.environ):
        if name.startswith("SGLANG_MIRROR_"):
            monkeypatch.delenv(name)
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def models(tmp_path: Path) -> tuple[str, str]:
    """Folders with what settings look at: the number of layers and the tokenizer."""
    for name in ("target", "draft"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"num_hidden_layers": 4}), encoding="utf-8")
        tokenizer = {"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": []}
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    return str(tmp_path / "target"), str(tmp_path / "draft")


def arguments(models: tuple[str, str], **changed: Any) -> SimpleNamespace:
    values: dict[str, Any] = {
        "model_path": models[0],
        "speculative_algorithm": "mirror",
        "speculative_draft_model_path": models[1],
        "speculative_num_steps": None,
        "speculative_eagle_topk": None,
        "speculative_num_draft_tokens": None,
        "max_running_requests": None,
        "disable_overlap_schedule": False,
        "nnodes": 1,
    }
    return SimpleNamespace(**{**values, **changed})


@pytest.mark.parametrize(
    ("name", "asked"), [("mirror", True), ("MIRROR", True), (None, False), ("eagle", False)]
)
def test_asked_for(models: tuple[str, str], name: str | None, asked: bool) -> None:
    assert settings.asked_for(arguments(models, speculative_algorithm=name)) is asked


def test_adopt_fills_in_and_takes_the_draft_over(models: tuple[str, str]) -> None:
    args = arguments(models)
    settings.adopt(args)
    settings.adopt(args)
    assert args.speculative_draft_model_path is None
    assert os.environ["SGLANG_MIRROR_DRAFT_MODEL"] == models[1]
    assert (args.speculative_num_steps, args.speculative_eagle_topk, args.speculative_num_draft_tokens) == (
        5,
        1,
        6,
    )
    assert args.max_running_requests == 48
    tree = arguments(models, speculative_eagle_topk=3, speculative_num_steps=4)
    settings.adopt(tree)
    assert tree.speculative_num_draft_tokens == 8
    assert (
        settings.problems(arguments(models, speculative_eagle_topk=3, speculative_num_draft_tokens=14)) == []
    )
    assert args.disable_overlap_schedule


def test_adopt_keeps_what_was_asked_for(models: tuple[str, str]) -> None:
    args = arguments(models, speculative_num_steps=3, max_running_requests=4)
    settings.adopt(args)
    assert (args.speculative_num_steps, args.speculative_num_draft_tokens, args.max_running_requests) == (
        3,
        4,
        4,
    )


def test_nothing_to_object_to(models: tuple[str, str]) -> None:
    assert settings.problems(arguments(models)) == []
    assert settings.problems(arguments(models, speculative_num_steps=3, speculative_num_draft_tokens=4)) == []


@pytest.mark.parametrize(
    "changed",
    [
        {"attention_backend": "trtllm_mha"},
        {"attention_backend": "triton", "speculative_eagle_topk": 2},
        {"attention_backend": "flashinfer"},
        {"attention_backend": "fa3", "enable_deterministic_inference": True},
        {"quantization": "fp8", "speculative_draft_model_quantization": "fp8"},  # as SGLang fills it in
    ],
)
def test_what_will_do(models: tuple[str, str], changed: dict[str, Any]) -> None:
    assert settings.problems(arguments(models, **changed)) == []


def test_what_sglang_chose_by_itself_counts(models: tuple[str, str]) -> None:
    """Up to 0.5.19 a record's fields have what was given until all is resolved."""
    args = arguments(models, attention_backend=None, enable_deterministic_inference=True)
    args._resolved_overrides = [
        ("default", {"attention_backend": "fa3"}),
        ("deterministic", {"attention_backend": "flashinfer"}),
        ("later", {"sampling_backend": "pytorch"}),
    ]
    [reason] = settings.problems(args)
    assert reason.startswith("--attention-backend flashinfer: with --enable-deterministic-inference")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"enable_lora": True}, "--enable-lora True"),
        ({"lora_paths": ["x"]}, "--lora-paths"),
        ({"pp_size": 2}, "--pp-size 2"),
        ({"tokenizer_worker_num": 2}, "use --tokenizer-worker-num 1"),
        ({"enable_dp_attention": True}, "--enable-dp-attention"),
        ({"enable_mixed_chunk": True}, "--enable-mixed-chunk"),
        ({"enable_torch_compile": True}, "--enable-torch-compile"),
        ({"cuda_graph_backend_decode": "breakable"}, "give full or disabled"),
        ({"speculative_use_rejection_sampling": True}, "--speculative-use-rejection-sampling"),
        ({"speculative_accept_threshold_single": 0.5}, "--speculative-accept-threshold-single 0.5"),
        ({"speculative_accept_threshold_acc": 0.5}, "--speculative-accept-threshold-acc 0.5"),
        ({"speculative_draft_model_revision": "v2"}, "--speculative-draft-model-revision v2"),
        ({"speculative_draft_load_format": "dummy"}, "--speculative-draft-load-format dummy"),
        ({"speculative_draft_kv_cache_dtype": "fp8_e5m2"}, "--speculative-draft-kv-cache-dtype fp8_e5m2"),
        ({"speculative_draft_window_size": 64}, "--speculative-draft-window-size 64"),
        ({"speculative_token_map": "ids.pt"}, "--speculative-token-map ids.pt"),
        ({"speculative_draft_model_quantization": "fp8"}, "--speculative-draft-model-quantization fp8"),
        ({"enable_custom_logit_processor": True}, "--enable-custom-logit-processor"),
        ({"enable_return_hidden_states": True}, "--enable-return-hidden-states"),
        ({"enable_streaming_session": True}, "--enable-streaming-session"),
        ({"disaggregation_mode": "decode"}, "--disaggregation-mode decode"),
        ({"rl_on_policy_target": "fsdp"}, "--rl-on-policy-target fsdp"),
        (
            {"attention_backend": "trtllm_mha", "speculative_eagle_topk": 2},
            "--attention-backend trtllm_mha: it is not known to verify trees (--speculative-eagle-topk 2)",
        ),
        (
            {"decode_attention_backend": "flashinfer", "enable_deterministic_inference": True},
            "--decode-attention-backend flashinfer: with --enable-deterministic-inference",
        ),
        ({"speculative_num_steps": 0}, "--speculative-num-steps 0"),
        ({"speculative_eagle_topk": 2, "speculative_num_steps": 1}, "--speculative-eagle-topk 2"),
        (
            {"speculative_eagle_topk": 2, "speculative_num_steps": 4, "speculative_num_draft_tokens": 9},
            "has 5 to 8 nodes here",
        ),
        ({"speculative_num_draft_tokens": 9}, "--speculative-num-draft-tokens 9"),
        ({"speculative_draft_model_path": None}, "--speculative-draft-model-path is missing"),
        ({"speculative_draft_model_path": "/nowhere"}, "no such model folder"),
    ],
)
def test_one_objection(models: tuple[str, str], changed: dict[str, Any], words: str) -> None:
    [reason] = settings.problems(arguments(models, **changed))
    assert words in reason


@pytest.mark.parametrize(
    ("roots", "refused"), [("union", True), ("exit", True), ("draft", False), ("auto", False)]
)
def test_several_hosts(
    models: tuple[str, str], monkeypatch: pytest.MonkeyPatch, roots: str, refused: bool
) -> None:
    monkeypatch.setenv("SGLANG_MIRROR_ROOTS", roots)
    reasons = settings.problems(arguments(models, nnodes=2))
    assert len(reasons) == refused
    assert all("--nnodes 2" in reason and "--mirror-roots draft" in reason for reason in reasons)


def test_the_overlap_schedule_is_sglangs(models: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    args = arguments(models)
    settings.adopt(args)
    assert args.disable_overlap_schedule
    monkeypatch.setenv("SGLANG_MIRROR_SCHEDULE", "overlap")
    args = arguments(models)
    assert settings.problems(args) == []
    settings.adopt(args)
    assert not args.disable_overlap_schedule
    [reason] = settings.problems(arguments(models, disable_overlap_schedule=True))
    assert "--mirror-schedule overlap" in reason
    assert "--disable-overlap-schedule" in reason


@pytest.mark.parametrize("layer", [4, 9])
def test_exit_layer(models: tuple[str, str], monkeypatch: pytest.MonkeyPatch, layer: int) -> None:
    monkeypatch.setenv("SGLANG_MIRROR_EXIT_LAYER", str(layer))
    [reason] = settings.problems(arguments(models))
    assert f"--mirror-exit-layer {layer}" in reason
    assert "give 1 to 3" in reason


def test_exit_layer_of_a_model_with_several_parts(
    models: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its text model's layers count; where the config does not say how many, the model will."""
    monkeypatch.setenv("SGLANG_MIRROR_EXIT_LAYER", "6")
    config = Path(models[0]) / "config.json"
    for found in ({"text_config": {"num_hidden_layers": 8}}, {}):
        config.write_text(json.dumps(found), encoding="utf-8")
        assert settings.problems(arguments(models)) == []
    config.write_text(json.dumps({"text_config": {"num_hidden_layers": 6}}), encoding="utf-8")
    [reason] = settings.problems(arguments(models))
    assert "has 6 layers; give 1 to 5" in reason


def test_an_accelerator_on_which_the_exit_cannot_be_read(
    models: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert settings.problems(arguments(models, device="npu")) == []  # the draft guesses alone
    monkeypatch.setenv("SGLANG_MIRROR_EXIT_LAYER", "2")
    [reason] = settings.problems(arguments(models, device="npu"))
    assert "--device npu" in reason
    assert "--mirror-roots draft" in reason
    monkeypatch.setenv("SGLANG_MIRROR_ROOTS", "draft")
    assert settings.problems(arguments(models, device="npu")) == []


@pytest.mark.parametrize("name", ["trace", "draft_trace"])
def test_a_trace_that_cannot_be_written(
    models: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    flag = "--mirror-" + name.replace("_", "-")
    for path in (tmp_path / "no/folder/steps.jsonl", tmp_path):
        monkeypatch.setenv(f"SGLANG_MIRROR_{name.upper()}", str(path))
        [reason] = settings.problems(arguments(models))
        assert f"{flag} {path}: cannot be written" in reason
    monkeypatch.setenv(f"SGLANG_MIRROR_{name.upper()}", str(tmp_path / "steps.jsonl"))
    assert settings.problems(arguments(models)) == []


def test_another_vocabulary(models: tuple[str, str]) -> None:
    tokenizer = {"model": {"vocab": {"a": 1, "b": 0}}, "added_tokens": []}
    (Path(models[1]) / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    [reason] = settings.problems(arguments(models))
    assert "share the target's tokenizer" in reason


def test_all_objections_at_once(models: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGLANG_MIRROR_KAPPA", "0")
    monkeypatch.setenv("SGLANG_MIRROR_NONSENSE", "0")
    reasons = settings.problems(
        arguments(models, enable_lora=True, pp_size=2, speculative_num_draft_tokens=4)
    )
    assert len(reasons) == 4
