"""The fingerprint by which two processes know that they mean the same tokens."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from sglang_mirror.errors import DraftError

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def is_missing(model: str) -> bool:
    """Whether a model is neither a folder that exists nor a name that the hub could know."""
    return not Path(model).is_dir() and not (HUB_NAME.fullmatch(model) and not Path(model).parent.is_dir())


def vocabulary_fingerprint(model: str) -> str:
    """Hash of every token's text and id, from the model's tokenizer.

    Reads `tokenizer.json` where there is one; otherwise asks `transformers`, which also knows hub names.

    Args:
        model: a model folder or a hub name.

    Raises:
        DraftError: the model has no tokenizer that can be read.
    """
    vocabulary = _vocabulary(model)
    text = json.dumps(sorted(vocabulary.items()), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def vocabulary_size(model: str) -> int:
    """The tokenizer's ids are below it; a model's embedding may have rows beyond, which mean nothing.

    Raises:
        DraftError: the model has no tokenizer that can be read.
    """
    return max(_vocabulary(model).values(), default=-1) + 1


def _vocabulary(model: str) -> dict[str, int]:
    return _from_file(Path(model) / "tokenizer.json") or _from_transformers(model)


def _from_file(path: Path) -> dict[str, int]:
    if not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = content.get("model", {}).get("vocab")
    if not isinstance(vocabulary, dict):  # unigram models list [token, score]
        vocabulary = {token: index for index, (token, _) in enumerate(vocabulary or [])}
    added = {token["content"]: token["id"] for token in content.get("added_tokens", [])}
    return {**vocabulary, **added}


def _from_transformers(model: str) -> dict[str, int]:
    try:
        from transformers import AutoTokenizer  # noqa: PLC0415 - heavy, and seldom needed

        vocabulary: dict[str, int] = AutoTokenizer.from_pretrained(model).get_vocab()
    except (ImportError, OSError, ValueError) as error:
        raise DraftError(f"no tokenizer can be read from {model!r}: {error}") from error
    return vocabulary
