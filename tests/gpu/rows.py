"""What the check on a GPU has found: a row a server, in one file, also by runs of some tests or cut off."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sglang_mirror.bench.output import read_results, write_results
from sglang_mirror.bench.provenance import same_code

# Of a row: family, attention backend and way.
Key = tuple[str, str, str]
NAMES = ("family", "backend", "arm")


class Rows:
    """The file's rows; it is written after each change.

    A row that failed has the reason as `failed`, and so has one that nothing has been found for yet.

    Args:
        path: of the JSON. What earlier runs of the same code have left there is kept.
        keys: all rows that a whole check has.
    """

    def __init__(self, path: Path, keys: Iterable[Key]) -> None:
        self._path = path
        self._rows = {key: _row(key, "not run") for key in keys}
        if path.is_file():
            content = read_results(path)
            if same_code(content):
                self._rows |= {tuple(row[name] for name in NAMES): row for row in content["results"]}

    @contextlib.contextmanager
    def row(self, key: Key) -> Iterator[dict[str, Any]]:
        """A fresh row for a test to fill in; what ends the test is its reason."""
        row = _row(key, None)
        try:
            yield row
        except Exception as error:
            row["failed"] = (str(error).strip() or repr(error)).splitlines()[0]
            raise
        finally:
            self._rows[key] = row
            self._write()

    def failed(self, keys: Sequence[Key], reason: str) -> None:
        """None of these can be run."""
        self._rows |= {key: _row(key, reason) for key in keys}
        self._write()

    def _write(self) -> None:
        write_results(self._path, list(self._rows.values()))


def _row(key: Key, failed: str | None) -> dict[str, Any]:
    return {**dict(zip(NAMES, key, strict=True)), "failed": failed}
