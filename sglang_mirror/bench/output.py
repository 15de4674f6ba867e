"""The JSON of a run: written whole, after every part of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sglang_mirror.bench.provenance import provenance
from sglang_mirror.errors import MirrorError

SCHEMA = 1


def write_results(
    path: Path,
    results: Sequence[dict[str, Any]],
    *,
    skipped: Mapping[str, str] | None = None,
    timeline: dict[str, Any] | None = None,
) -> None:
    """Write what is known so far; a reader finds the old file or the new one, never a part."""
    content = {
        "schema": SCHEMA,
        "provenance": provenance(),
        "results": list(results),
        "skipped": [{"arm": arm, "reason": reason} for arm, reason in (skipped or {}).items()],
        "timeline": timeline,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    fresh.replace(path)


def read_results(path: Path) -> dict[str, Any]:
    """A file that `write_results` wrote.

    Raises:
        MirrorError: it cannot be read, or is not of that form.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            raise MirrorError(f"{path}: schema {content['schema']}; this version reads {SCHEMA}")
        content["results"][:1], content["provenance"]["date"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MirrorError(f"{path}: no results of `sglang-mirror bench run` ({error!r})") from error
    return content
