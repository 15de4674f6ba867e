"""A user's own text, read from files, folders and JSONL, as a file of tokens."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sglang_mirror.errors import MirrorError

# Fields of a JSONL line that hold text; `messages` is a list of objects with a `content`.
TEXT_FIELDS = ("text", "prompt", "content")


def documents(paths: Iterable[Path]) -> Iterator[str]:
    """Every file under `paths`, and every line of a .jsonl file, as one text each.

    Raises:
        MirrorError: a path does not exist, or a line has no text; it names the file and the line.
    """
    for path in paths:
        if not path.exists():
            raise MirrorError(f"--text {path}: no such file or folder")
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.suffix == ".jsonl":
                yield from _lines(file)
            elif file.is_file():
                text = file.read_text(encoding="utf-8", errors="ignore")
                if text.strip():
                    yield text


def _lines(file: Path) -> Iterator[str]:
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            yield _text(json.loads(line))
        except (ValueError, TypeError, KeyError) as error:
            raise MirrorError(
                f"--text {file}, line {number}: expected an object with one of {', '.join(TEXT_FIELDS)}, or "
                f"with 'messages' ({error!r})"
            ) from error


def _text(row: Any) -> str:
    for field in TEXT_FIELDS:
        if isinstance(row.get(field), str):
            return str(row[field])
    return "\n\n".join(str(message["content"]) for message in row["messages"])


def token_dtype(vocab_size: int) -> type[np.unsignedinteger[Any]]:
    """The smallest unsigned integers that hold every token."""
    return np.uint16 if vocab_size <= 1 << 16 else np.uint32


def write_documents(path: Path, texts: Iterable[str], tokenizer: Any, *, least: int) -> int:
    """Every text, and an end of text where the tokenizer has one, one after another.

    Args:
        path: where the tokens go.
        texts: what is written.
        tokenizer: of transformers.
        least: tokens that there must be.

    Returns:
        the number of tokens.

    Raises:
        MirrorError: there are fewer than `least`.
    """
    dtype = token_dtype(len(tokenizer))
    end: Sequence[int] = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    partial, count = path.with_suffix(".partial"), 0
    with partial.open("wb") as file:
        for text in texts:
            ids = np.array([*tokenizer.encode(text, add_special_tokens=False), *end], dtype=dtype)
            count += len(ids)
            file.write(ids.tobytes())
    if count < least:
        raise MirrorError(f"--text: {count} tokens in all, fewer than one window of {least}; give more text")
    partial.replace(path)
    return count
