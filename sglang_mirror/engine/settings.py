"""SGLang's own settings, as mirror needs them: what it takes over, what it fills in, what it refuses."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

from sglang_mirror.config import MirrorConfig, resolve, variable
from sglang_mirror.core.growth import WindowShape
from sglang_mirror.draft.launcher import trace_problems
from sglang_mirror.engine import placing, probe
from sglang_mirror.engine.refused import REFUSED
from sglang_mirror.errors import MirrorError, SettingsError
from sglang_mirror.protocol.endpoint import TARGET_KEY, endpoint_problems
from sglang_mirror.protocol.vocabulary import is_missing, vocabulary_fingerprint

ALGORITHM = "MIRROR"
DEFAULT_GAMMA = 5
# SGLang's own default for its built-in drafts: verification reserves room for every running request.
DEFAULT_MAX_RUNNING_REQUESTS = 48

ATTENTION_BACKENDS = ("attention_backend", "prefill_attention_backend", "decode_attention_backend")
# Those that show a node its own path only. Others would let it see its siblings too, and say nothing.
TREE_BACKENDS = ("flashinfer", "fa3", "triton", "torch_native")


def asked_for(args: Any) -> bool:
    """Whether these settings (an argparse namespace or SGLang's record) ask for mirror."""
    return str(getattr(args, "speculative_algorithm", None) or "").upper() == ALGORITHM


def adopt(args: Any) -> None:
    """Take over the draft's path and fill in what SGLang leaves to an algorithm. Safe to call again.

    The path leaves SGLang's settings because SGLang would shrink the target's KV pool for a draft of its own.
    """
    if args.speculative_draft_model_path:
        os.environ[variable("draft_model")] = args.speculative_draft_model_path
        args.speculative_draft_model_path = None
    if args.speculative_num_steps is None:
        args.speculative_num_steps = DEFAULT_GAMMA
    if args.speculative_eagle_topk is None:
        args.speculative_eagle_topk = 1
    if args.speculative_num_draft_tokens is None:
        args.speculative_num_draft_tokens = _usual_nodes(
            args.speculative_num_steps, args.speculative_eagle_topk
        )
    if args.max_running_requests is None:
        args.max_running_requests = DEFAULT_MAX_RUNNING_REQUESTS
    config = resolve()
    if config.schedule == "sync":
        args.disable_overlap_schedule = True
    placing.hold_target(config)


def problems(args: Any) -> list[str]:
    """Every reason why these settings cannot be served, each with the setting, its value and the remedy."""
    found = [
        f"--{name.replace('_', '-')} {getattr(args, name)}: {why}"
        for name, is_refused, why in REFUSED
        if is_refused(getattr(args, name, None))
    ]
    found += _window_problems(args) + _attention_problems(args)
    try:
        config = resolve()
    except SettingsError as error:
        return found + list(error.reasons)
    found += _schedule_problems(args, config) + _exit_problems(args, config)
    found += _draft_problems(args, config) + _quantization_problems(args)
    found += _trace_problems(config)
    return found + placing.problems(args, config, num_gpus=torch.cuda.device_count())


def endpoint_objections(args: Any) -> list[str]:
    """Why what answers at the given endpoint cannot be our draft. Waits for its answer: `problems` first."""
    config = resolve()
    if config.draft_endpoint is None:
        return []
    gamma, topk = args.speculative_num_steps or DEFAULT_GAMMA, args.speculative_eagle_topk or 1
    nodes = args.speculative_num_draft_tokens or _usual_nodes(gamma, topk)
    shape = WindowShape(gamma, topk, nodes - 1)
    return probe.endpoint_objections(config, shape=shape, target=args.model_path)


def _usual_nodes(gamma: int, topk: int) -> int:
    """A chain's; of a tree twice as many, as far as its nodes may have children."""
    return gamma + 1 if topk == 1 else min(2 * gamma, _most_nodes(gamma, topk))


def _most_nodes(gamma: int, topk: int) -> int:
    """SGLang's verification has room for so many parents: topk a step but the first, and the root."""
    return topk * (gamma - 1) + 2


def _window_problems(args: Any) -> list[str]:
    gamma, topk = args.speculative_num_steps, args.speculative_eagle_topk
    found = []
    if gamma is not None and gamma < 1:
        found.append(
            f"--speculative-num-steps {gamma}: a window has at least one draft token; give 1 or more"
        )
    depth, children = gamma or DEFAULT_GAMMA, topk or 1
    nodes = args.speculative_num_draft_tokens
    if children == 1:
        if nodes not in (None, depth + 1):
            found.append(
                f"--speculative-num-draft-tokens {nodes}: a chain of {depth} draft tokens "
                f"(--speculative-num-steps) and its root has {depth + 1} nodes; give {depth + 1} or leave it "
                "out, or --speculative-eagle-topk 2 or more for a tree"
            )
    elif depth < 2:
        found.append(
            f"--speculative-eagle-topk {topk}: a tree is at least 2 deep; give --speculative-num-steps 2 "
            "or more"
        )
    elif nodes is not None and not depth < nodes <= _most_nodes(depth, children):
        found.append(
            f"--speculative-num-draft-tokens {nodes}: a tree of {children} children a node and depth {depth} "
            f"has {depth + 1} to {_most_nodes(depth, children)} nodes here"
        )
    return found


def _attention_problems(args: Any) -> list[str]:
    topk, exact = args.speculative_eagle_topk or 1, _chosen(args, "enable_deterministic_inference")
    found = []
    for name in ATTENTION_BACKENDS:
        backend = _chosen(args, name)
        given = f"--{name.replace('_', '-')} {backend}"
        if topk > 1 and backend not in (None, *TREE_BACKENDS):
            found.append(
                f"{given}: it is not known to verify trees (--speculative-eagle-topk {topk}); "
                f"give {', '.join(TREE_BACKENDS)}, or --speculative-eagle-topk 1"
            )
        if exact and backend == "flashinfer":
            found.append(
                f"{given}: with --enable-deterministic-inference its verification still depends on the "
                "batch; give fa3 or triton"
            )
    return found


def _chosen(args: Any, name: str) -> Any:
    """A setting as SGLang has resolved it so far; up to 0.5.19 its own choices lie beside the record."""
    for _, declared in reversed(getattr(args, "_resolved_overrides", None) or ()):
        if name in declared:
            return declared[name]
    return getattr(args, name, None)


def _trace_problems(config: MirrorConfig) -> list[str]:
    given = {"--mirror-trace": config.trace, "--mirror-draft-trace": config.draft_trace}
    return [
        problem
        for flag, path in given.items()
        for problem in trace_problems(flag, None if path is None else Path(path))
    ]


def _schedule_problems(args: Any, config: MirrorConfig) -> list[str]:
    if config.schedule == "sync" or not args.disable_overlap_schedule:
        return []
    return [
        "--mirror-schedule overlap: --disable-overlap-schedule asks for the opposite; leave one of them out"
    ]


def exit_barrier(args: Any) -> str | None:
    """What in SGLang's settings keeps any early exit from being read; None if nothing does."""
    if args.nnodes > 1:
        return (
            f"--nnodes {args.nnodes}: the ranks leave what the early exit finds in memory that they share, "
            "which hosts do not; use --mirror-roots draft, or one host"
        )
    device = getattr(args, "device", None)
    if device not in (None, "cpu", "cuda"):
        return (
            f"--device {device}: the early exit is read on CUDA and ROCm GPUs only; use --mirror-roots draft"
        )
    return None


def _exit_problems(args: Any, config: MirrorConfig) -> list[str]:
    if not config.insists_on_exit:
        return []
    if barrier := exit_barrier(args):
        return [barrier]
    path = Path(args.model_path) / "config.json"
    if config.exit_layer is None or not path.is_file():
        return []
    found = json.loads(path.read_text(encoding="utf-8"))
    num_layers = (found.get("text_config") or found).get("num_hidden_layers")
    if num_layers is None or 1 <= config.exit_layer < num_layers:
        return []
    return [
        f"--mirror-exit-layer {config.exit_layer}: {args.model_path} has {num_layers} layers; "
        f"give 1 to {num_layers - 1}"
    ]


def _draft_problems(args: Any, config: MirrorConfig) -> list[str]:
    if config.draft_endpoint is not None:
        curve_dir = Path(config.curve_dir) if config.curve_dir else None
        return endpoint_problems(
            config.draft_endpoint,
            side=TARGET_KEY,
            curve_dir=curve_dir,
            insecure_tcp=config.insecure_tcp,
            insecure_flag="--mirror-insecure-tcp",
        )
    model = args.speculative_draft_model_path or config.draft_model
    if not model:
        return ["--speculative-draft-model-path is missing: name the draft model, or --mirror-draft-endpoint"]
    if is_missing(model):
        return [
            f"--speculative-draft-model-path {model!r}: no such model folder; name one that exists, or a "
            "model of the hub as OWNER/NAME"
        ]
    # A hub name the draft process looks up.
    return _vocabulary_problems(args.model_path, model) if Path(model).is_dir() else []


def _quantization_problems(args: Any) -> list[str]:
    asked = getattr(args, "speculative_draft_model_quantization", None)
    if asked in (None, getattr(args, "quantization", None)):  # SGLang fills in the target's
        return []
    return [
        f"--speculative-draft-model-quantization {asked}: the draft process computes in "
        "--mirror-draft-dtype; serve without it"
    ]


def _vocabulary_problems(target: str, draft: str) -> list[str]:
    if not Path(target).is_dir():
        return []
    try:
        ours, theirs = vocabulary_fingerprint(target), vocabulary_fingerprint(draft)
    except MirrorError as error:
        return [f"--speculative-draft-model-path {draft!r}: {error}"]
    if ours == theirs:
        return []
    return [
        f"--speculative-draft-model-path {draft!r}: its vocabulary ({theirs}) is not the target's ({ours}); "
        "a draft must share the target's tokenizer"
    ]
