"""What computes the draft: one file a backend, chosen by name."""

from __future__ import annotations

from collections.abc import Callable

from sglang_mirror.draft.backends.base import Backend
from sglang_mirror.errors import SettingsError

Loader = Callable[..., Backend]


def _torch(*, model: str, device: str, dtype: str, threads: int) -> Backend:
    from sglang_mirror.draft.backends.load import load_torch  # noqa: PLC0415 - torch is heavy

    return load_torch(model, device=device, dtype=dtype, threads=threads)


BACKENDS: dict[str, Loader] = {"torch": _torch}


def load_backend(name: str, *, model: str, device: str, dtype: str, threads: int) -> Backend:
    """The backend called `name` with its model loaded.

    Raises:
        SettingsError: there is no such backend.
        DraftError: the model cannot be loaded or served.
    """
    if name not in BACKENDS:
        raise SettingsError([f"--backend {name}: unknown; choose one of {', '.join(sorted(BACKENDS))}"])
    return BACKENDS[name](model=model, device=device, dtype=dtype, threads=threads)
