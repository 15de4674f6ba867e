"""The first stage: sources to tokenizer, token files and a manifest of where everything came from."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sglang_mirror.train.corpus import Source, digest, find_sources
from sglang_mirror.train.data import write_tokens
from sglang_mirror.train.tokenizer import load_tokenizer, train_tokenizer

logger = logging.getLogger(__name__)

TOKENIZER_SHARE = 3  # the merges are learned from CPython's files and every third other file


def prepare(work: Path, start: Path | None = None) -> None:
    """Writes tokenizer/, train.bin, heldout.bin and corpus.json under `work`, unless they are there.

    The tokenizer is learned anew, or is that of the pair in the folder `start`.
    """
    if (work / "corpus.json").exists():
        return
    work.mkdir(parents=True, exist_ok=True)
    train, heldout = find_sources()
    sample = (s.text for s in train if s.package == "CPython" or digest(s.name) % TOKENIZER_SHARE == 0)
    tokenizer = train_tokenizer(sample) if start is None else load_tokenizer(start / "target")
    tokenizer.save_pretrained(work / "tokenizer")
    cpython = [s.text for s in train if s.package == "CPython"]  # find_sources puts these first
    manifest = {
        "num_cpython_tokens": write_tokens(work / "cpython.bin", cpython, tokenizer),
        "num_train_tokens": write_tokens(work / "train.bin", (s.text for s in train), tokenizer),
        "num_heldout_tokens": write_tokens(work / "heldout.bin", (s.text for s in heldout), tokenizer),
        "num_heldout_bytes": sum(len(s.text.encode()) for s in heldout),
        "packages": summary(train),
        "heldout": [s.name for s in heldout],
        "train": [f"{s.package}:{s.name}" for s in train],
    }
    (work / "cpython.bin").unlink()
    (work / "corpus.json").write_text(json.dumps(manifest, indent=1) + "\n")
    logger.info(
        "tokens: %d to train on, %d held out", manifest["num_train_tokens"], manifest["num_heldout_tokens"]
    )


def summary(sources: Iterable[Source]) -> list[dict[str, Any]]:
    """One row a package: name, version, licence, files and bytes."""
    rows: dict[str, dict[str, Any]] = {}
    for s in sources:
        row = rows.setdefault(
            s.package,
            {"package": s.package, "version": s.version, "licence": s.licence, "files": 0, "bytes": 0},
        )
        row["files"] += 1
        row["bytes"] += len(s.text.encode())
    return sorted(rows.values(), key=lambda row: -int(row["bytes"]))
