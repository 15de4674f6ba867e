"""What computes the draft: one file a backend, chosen by name."""

from __future__ import annotations

from collections.abc import Callable

from sglang_mirror.draft.backends.base import Backend
from sglang_mirror.draft.backends.scripted import load_scripted
from sglang_mirror.errors import SettingsError

Loader = Callable[..., Backend]


def _torch(kind: str) -> Loader:
    def load(*, model: str, device: str, dtype: str, threads: int) -> Backend:
        from sglang_mirror.draft.backends.load import load_torch  # noqa: PLC0415 - torch is heavy

        return load_torch(model, device=device, dtype=dtype, threads=threads, kind=kind)

    return load


BACKENDS: dict[str, Loader] = {
    **{kind: _torch(kind) for kind in ("torch", "torch-fused", "torch-eager")},
    "scripted": load_scripted,
}


def load_backend(name: str, *, model: str, device: str, dtype: str, threads: int) -> Backend:
    """The backend called `name` with its model loaded.

    Raises:
        SettingsError: there is no such backend, or it cannot serve the model.
        DraftError: the model cannot be loaded now.
    """
    kind, _, options = name.partition(":")
    if kind not in BACKENDS or (options and kind != "scripted"):
        raise SettingsError([f"--backend {name}: unknown; choose one of {', '.join(sorted(BACKENDS))}"])
    if options:
        return load_scripted(model=model, device=device, dtype=dtype, threads=threads, options=options)
    return BACKENDS[kind](model=model, device=device, dtype=dtype, threads=threads)
