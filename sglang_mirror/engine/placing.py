"""Where the draft computes: on a GPU that the target leaves free, on the host's cores, or on the target's.

Two processes on one GPU take turns, unless CUDA's Multi-Process Service (MPS) lets their kernels run side by
side. Then each is held to a share of the multiprocessors: the target's kernels would otherwise fill them all,
and each of the draft's wait for one of them to end.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from sglang_mirror.config import MirrorConfig

# https://docs.nvidia.com/deploy/mps: what a client may use of a GPU, in percent; read as it first uses one.
SHARE = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"
_PIPES, _USUAL_PIPES = "CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps"


def target_gpus(args: Any) -> list[int]:
    """The numbers of this host's GPUs that SGLang's settings give to the target."""
    if args.device == "cpu":
        return []
    count = max(1, args.tp_size * args.dp_size // args.nnodes)
    return [args.base_gpu_id + place * args.gpu_id_step for place in range(count)]


def draft_device(wanted: str, taken: list[int], num_gpus: int) -> str:
    """What `--mirror-draft-device` means here.

    Args:
        wanted: the setting.
        taken: the target's GPUs.
        num_gpus: that there are.
    """
    if wanted != "auto":
        return wanted
    free = [gpu for gpu in range(num_gpus) if gpu not in taken]
    return f"cuda:{free[0]}" if free else "cpu"


def draft_threads(wanted: int | None, device: str, *, beside_gpus: bool) -> int:
    """What `--mirror-draft-threads` means here.

    Args:
        wanted: the setting; None for what is usual.
        device: the draft's.
        beside_gpus: whether the target is on GPUs, so that the cores mostly wait.
    """
    if wanted is not None:
        return wanted
    return max(1, len(os.sched_getaffinity(0)) // 2) if device == "cpu" and beside_gpus else 1


def share_problems(args: Any, config: MirrorConfig) -> list[str]:
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
    control = Path(os.environ.get(_PIPES, _USUAL_PIPES)) / "control"
    try:
        return stat.S_ISFIFO(control.stat().st_mode)
    except OSError:
        return False
