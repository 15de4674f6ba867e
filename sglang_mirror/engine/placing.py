"""Where the draft computes: on a GPU that the target leaves free, on the host's cores, or on the target's.

Two processes on one GPU take turns, unless CUDA's Multi-Process Service (MPS) lets their kernels run side by
side. Then each is held to a share of the multiprocessors: the target's kernels would otherwise fill them all,
and each of the draft's wait for one of them to end.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sglang_mirror.config import MirrorConfig
from sglang_mirror.draft.launcher import cpu_problems

# https://docs.nvidia.com/deploy/mps: what a client may use of a GPU, in percent; read as it first uses one.
SHARE = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"
_PIPES, _USUAL_PIPES = "CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps"


def target_gpus(args: Any) -> list[int]:
    """The numbers of this host's GPUs that SGLang's settings give to the target."""
    if args.device == "cpu":
        return []
    count = max(1, args.tp_size * args.dp_size // args.nnodes)
    return [args.base_gpu_id + place * args.gpu_id_step for place in range(count)]


def replica_of(args: Any, gpu_id: int) -> int:
    """Which of this host's `--dp-size` targets a rank belongs to; each has a draft of its own."""
    return int((gpu_id - args.base_gpu_id) // (args.gpu_id_step * args.tp_size))


def draft_place(config: MirrorConfig, args: Any, *, num_gpus: int, replica: int = 0) -> tuple[str, int]:
    """The device of a draft that we start, and its threads on a CPU.

    Args:
        config: the settings.
        args: SGLang's.
        num_gpus: that there are.
        replica: whose draft it is: several of them take the free GPUs in turn.
    """
    taken = target_gpus(args)
    device = config.draft_device
    if device == "auto":
        free = [gpu for gpu in range(num_gpus) if gpu not in taken]
        device = f"cuda:{free[replica % len(free)]}" if free else "cpu"
    # Beside GPUs most cores have nothing to do.
    usual = len(os.sched_getaffinity(0)) // 2 // args.dp_size if taken and device == "cpu" else 1
    return device, config.draft_threads or max(1, usual)


def problems(args: Any, config: MirrorConfig, *, num_gpus: int) -> list[str]:
    """Why the draft cannot compute where the settings put it."""
    found = _share_problems(args, config)
    if config.draft_endpoint is not None:  # it computes elsewhere
        return found
    if config.draft_cpus is not None:
        found += cpu_problems("--mirror-draft-cpus", config.draft_cpus)
    if config.draft_memory_gb is not None and draft_place(config, args, num_gpus=num_gpus)[0] == "cpu":
        found.append(
            f"--mirror-draft-memory-gb {config.draft_memory_gb:g}: only a GPU's memory can be bounded, and "
            "the draft computes on the host's cores; leave it out, or name a GPU by --mirror-draft-device"
        )
    kind, _, number = config.draft_device.partition(":")
    if kind == "cuda" and not (number or "0").isdecimal():
        found.append(f"--mirror-draft-device {config.draft_device}: give cuda:NUMBER")
    elif kind == "cuda" and int(number or 0) >= num_gpus:
        found.append(
            f"--mirror-draft-device {config.draft_device}: this host has {num_gpus} GPUs that can be used; "
            "name one of them, or cpu, or leave it out"
        )
    return found


def _share_problems(args: Any, config: MirrorConfig) -> list[str]:
    """Why `--mirror-draft-share` cannot work with these settings."""
    share = config.draft_share
    if share is None:
        return []
    found, said = [], f"--mirror-draft-share {share}"
    gpus = target_gpus(args)
    if config.draft_endpoint is not None:
        found.append(
            f"{said}: the draft at {config.draft_endpoint} is not started by us; give it, and the server, "
            f"{SHARE} of their own"
        )
    elif [config.draft_device] != [f"cuda:{gpu}" for gpu in gpus]:
        theirs = ", ".join(f"cuda:{gpu}" for gpu in gpus) or "the host's cores"
        found.append(
            f"{said}: it divides one GPU between both sides; here the target has {theirs} and the draft "
            f"{config.draft_device}; give both the same (--mirror-draft-device cuda:0), or leave it out"
        )
    if not _mps_runs():
        found.append(
            f"{said}: CUDA's Multi-Process Service does not run, and without it two processes on a GPU take "
            "turns; start it (nvidia-cuda-mps-control -d), or leave it out"
        )
    return found


def hold_target(config: MirrorConfig) -> None:
    """Leave the draft its share, in every process that SGLang is about to start."""
    if config.draft_share is not None:
        os.environ[SHARE] = str(100 - config.draft_share)


def _mps_runs() -> bool:
    try:
        return (Path(os.environ.get(_PIPES, _USUAL_PIPES)) / "control").is_socket()
    except OSError:
        return False
