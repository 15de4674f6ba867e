"""Kernels that this host cannot build: what Triton raises then, under one name."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

NO_COMPILER = "Failed to find C compiler"  # of Triton's bare RuntimeErrors, the one that is meant


class BuildError(RuntimeError):
    """A kernel, or what launches it, cannot be built here."""


@contextmanager
def building() -> Iterator[None]:
    """Kernels are launched for the first time in here.

    Triton compiles them, and by the host's C compiler what launches them: either may refuse, or lack the
    compiler, a header such as Python.h, or a place for its files.

    Raises:
        BuildError: one of them did.
    """
    try:
        yield
    except _build_errors() as error:
        raise BuildError(f"a kernel cannot be built: {error}") from error
    except RuntimeError as error:
        if NO_COMPILER not in str(error):
            raise
        raise BuildError(f"a kernel cannot be built: {error}") from error


def _build_errors() -> tuple[type[Exception], ...]:
    from triton.errors import TritonError  # noqa: PLC0415 - only where there is Triton

    return TritonError, subprocess.SubprocessError, OSError, ImportError
