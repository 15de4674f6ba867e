"""Memory that the devices of all ranks write into and the first rank's host reads."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from sglang_mirror.errors import MirrorError

REMEDY = "--mirror-roots draft does without"
_NUMBER_BYTES = 4
_MEMORY_FOLDER = "/dev/shm"


def shared_numbers(group: Any, length: int, register: Callable[[torch.Tensor], None]) -> torch.Tensor:
    """Zeros that every rank of a group has before it, in one memory. All ranks call it, and wait for all.

    The first rank makes a file, for its owner alone, and says its name; when all have mapped it, or one has
    failed, its name is gone, so nothing outlives the processes.

    Args:
        group: SGLang's group of the target's ranks, all on this host.
        length: int32 numbers.
        register: makes this rank's device able to write into it.

    Returns:
        int32 [length].

    Raises:
        MirrorError: on every rank, if there is not so much memory or any rank could not map or register it.
    """
    made, problem, memory = None, None, torch.empty(0, dtype=torch.int32)
    if group.rank_in_group == 0:
        try:
            made = create(length)
        except OSError as error:
            problem = f"{length * _NUMBER_BYTES} bytes in {_folder()}: {error}"
    try:
        path = group.broadcast_object(made, src=0)
        if path is not None:
            try:
                memory = attach(path, length)
                register(memory)
            except (OSError, ValueError, MirrorError) as error:
                problem = str(error)
        problems = [each for each in group.all_gather_object(problem) if each is not None]
    finally:  # a rank that has died leaves the others with the group's own error
        if made is not None:
            Path(made).unlink()
    if problems:
        raise MirrorError(f"the ranks cannot share memory for the early exit: {problems[0]}; {REMEDY}")
    return memory


def create(length: int) -> str:
    """Make a file of so many int32 zeros, for its owner alone; its path.

    Raises:
        OSError: there is no room; nothing is left of the file.
    """
    number, path = tempfile.mkstemp(prefix="sglang-mirror-", dir=_folder())
    try:
        # Room is taken now: to run out of it later would end the process that writes.
        os.posix_fallocate(number, 0, length * _NUMBER_BYTES)
    except OSError:
        Path(path).unlink()
        raise
    finally:
        os.close(number)
    return path


def attach(path: str, length: int) -> torch.Tensor:
    """The file's numbers, int32 [length]: what is written into them all who attached it see.

    Raises:
        OSError: there is no such file here, or it may not be written.
        ValueError: the file is shorter.
    """
    with Path(path).open("r+b") as file:
        return torch.frombuffer(mmap.mmap(file.fileno(), length * _NUMBER_BYTES), dtype=torch.int32)


def register_with_cuda(memory: torch.Tensor) -> None:
    """Pin this process's mapping and let the current device copy into it, also from a captured graph.

    Raises:
        MirrorError: CUDA refuses.
    """
    result = int(torch.cuda.cudart().cudaHostRegister(memory.data_ptr(), memory.nbytes, 0))
    if result != 0:
        raise MirrorError(f"cudaHostRegister of {memory.nbytes} bytes answers {result} (see `ulimit -l`)")


def _folder() -> str | None:
    """Where files are memory; None for the usual place of temporary ones."""
    return _MEMORY_FOLDER if Path(_MEMORY_FOLDER).is_dir() else None
