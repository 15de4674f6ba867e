"""JSONL files: one object a line; the held-out prompts among them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sglang_mirror.errors import MirrorError


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt; `long` marks those that take several prefill chunks."""

    text: str
    source: str
    long: bool


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Every object of a JSONL file with the number of its line; empty lines are passed over.

    Raises:
        MirrorError: the file cannot be read, or a line is no object; it names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise MirrorError(f"prompt file {path}: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise MirrorError(f"prompt file {path}, line {number}: no JSON ({error})") from error
        if not isinstance(row, dict):
            raise MirrorError(f"prompt file {path}, line {number}: expected an object, found {row!r}")
        yield number, row


def read_prompts(path: Path) -> list[Prompt]:
    """All prompts of a file.

    Raises:
        MirrorError: the file cannot be read, or a line is no prompt; it names the line.
    """
    prompts = []
    for number, row in read_rows(path):
        if not isinstance(row.get("prompt"), str):
            raise MirrorError(f"prompt file {path}, line {number}: expected an object with a 'prompt'")
        prompts.append(Prompt(row["prompt"], row.get("source", ""), bool(row.get("long"))))
    return prompts
