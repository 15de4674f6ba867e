"""The device that a draft computes on: whether it is there, and how much of its memory may be taken."""

from __future__ import annotations

import torch

from sglang_mirror.errors import SettingsError

GIB = 1 << 30


def device_problem(device: str) -> str:
    """Why there is no such device; empty if there is."""
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        return str(error).splitlines()[0]
    count = torch.cuda.device_count()
    if wanted.type == "cuda" and (wanted.index or 0) >= count:
        return f"PyTorch finds {count} GPUs here; name one of them, or cpu"
    return ""


def bound_memory(device: str, gib: float) -> None:
    """Let this process take so much of a GPU's memory; CUDA's own few hundred MiB come on top.

    What does not fit then fails as on a GPU that is full: a request alone, or the start.

    Raises:
        SettingsError: the device is no GPU that is there.
    """
    problem = device_problem(device)
    if not problem and torch.device(device).type != "cuda":
        problem = "only a GPU's memory can be bounded; leave it out"
    if problem:
        raise SettingsError([f"--memory-gb {gib:g} --device {device}: {problem}"])
    number = torch.device(device).index or 0
    total = torch.cuda.get_device_properties(number).total_memory
    torch.cuda.set_per_process_memory_fraction(min(gib * GIB / total, 1.0), number)
