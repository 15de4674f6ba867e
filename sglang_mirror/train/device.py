"""Where training runs: a device's name, checked before anything is loaded."""

from __future__ import annotations

import torch

from sglang_mirror.errors import MirrorError


def training_device(name: str) -> torch.device:
    """The device that `--device` names, as PyTorch does ("cpu", "cuda", "cuda:1").

    Raises:
        MirrorError: there is no such device here, or none of that name.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # a device that is not there, or holds no numbers, fails here
    except (RuntimeError, AssertionError) as error:  # a PyTorch without CUDA asserts
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise MirrorError(
            f"--device {name}: cannot train there ({reason}); give cpu, or cuda on a machine with a GPU"
        ) from error
    return device
