"""One JSON line a step and request: what was verified, what came of it, and when."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TextIO


class Trace:
    """Appends lines to a file; without a path it does nothing.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: str | None) -> None:
        self._file: TextIO | None = Path(path).open("a", encoding="utf-8", buffering=1) if path else None  # noqa: SIM115 - line-buffered, ours to the process's end

    def __bool__(self) -> bool:
        return self._file is not None

    def write(self, **fields: Any) -> None:
        if self._file is not None:
            self._file.write(json.dumps(fields) + "\n")
