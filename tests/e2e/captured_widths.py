"""A plugin for tests: on a CPU, too, windows are padded, and plain steps have what was built for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sglang_mirror.engine import widths

ENTRY_POINTS = f"[sglang.srt.plugins]\ncaptured-widths = {__name__}:register\n"


def write_distribution(folder: Path) -> None:
    """What SGLang finds the plugin by, once the folder is on its path."""
    about = folder / "captured_widths-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: captured-widths\nVersion: 1.0\n", "utf-8")
    (about / "entry_points.txt").write_text(ENTRY_POINTS, "utf-8")


def register() -> None:
    """Called by SGLang, in each of its processes."""
    usual = widths.widths_of

    def as_captured(model_runner: Any, shape: Any, **_: Any) -> Any:
        return usual(model_runner, shape, captured=True)

    widths.widths_of = as_captured
