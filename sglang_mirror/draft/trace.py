"""A record of every forward, one JSON object a line, on the machine's monotonic clock."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Self

# Lines held back before they are written: seconds of work, so that a forward never waits for the disk.
BUFFERED = 1024


class Trace:
    """Writes down when the draft computed.

    Args:
        path: where to; None writes nothing.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._file = path.open("a", encoding="utf-8") if path is not None else None
        self._lines: list[tuple[float, float, int, int, int]] = []

    def forward(
        self, start_s: float, end_s: float, num_requests: int, rollout_rows: int, prompt_rows: int
    ) -> None:
        """One forward, from `start_s` to `end_s` on `time.monotonic`."""
        if self._file is None:
            return
        self._lines.append((start_s, end_s, num_requests, rollout_rows, prompt_rows))
        if len(self._lines) >= BUFFERED:
            self.flush()

    def flush(self) -> None:
        if self._file is None:
            return
        keys = ("start_s", "end_s", "requests", "rollout_rows", "prompt_rows")
        self._file.writelines(json.dumps(dict(zip(keys, line, strict=True))) + "\n" for line in self._lines)
        self._file.flush()
        self._lines.clear()

    def close(self) -> None:
        if self._file is not None:
            self.flush()
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
