"""Prompts from a JSONL file: one object a line, with at least a `prompt`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from sglang_mirror.errors import MirrorError


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt; `long` marks those that take several prefill chunks."""

    text: str
    source: str
    long: bool


def read_prompts(path: Path) -> list[Prompt]:
    """All prompts of a file.

    Raises:
        MirrorError: the file cannot be read, or a line is no prompt; it names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise MirrorError(f"prompt file {path}: {error}") from error
    prompts = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            prompts.append(Prompt(row["prompt"], row.get("source", ""), bool(row.get("long"))))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise MirrorError(
                f"prompt file {path}, line {number}: expected an object with a 'prompt' ({error!r})"
            ) from error
    return prompts
