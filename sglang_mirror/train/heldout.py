"""Cuts prompts out of held-out CPython files, inside functions, with what really follows."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from sglang_mirror.train.corpus import Source, digest

NUM_SHORT, NUM_LONG = 80, 6
SHORT_TOKENS = (60, 250)
LONG_TOKENS = (700, 1200)
MIN_LINES_LEFT = 6  # of the function, after the cut
MAX_PER_FILE = 3
REFERENCE_CHARS = 400


def cuts(source: Source) -> Iterator[tuple[int, int]]:
    """Yields (first line, end) of each function's head, 0-based and exclusive, with some of its body."""
    for node in ast.walk(ast.parse(source.text)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        first = min([node.lineno, *(d.lineno for d in node.decorator_list)]) - 1
        body = node.body[1:] if ast.get_docstring(node) is not None else node.body
        ends = [s.end_lineno or 0 for s in body[:4] if node.end_lineno and s.end_lineno]
        ends = [end for end in ends if (node.end_lineno or 0) - end >= MIN_LINES_LEFT]
        if ends:
            yield first, ends[-1]


def prompts_of(
    source: Source, tokenizer: PreTrainedTokenizerFast, num_tokens: tuple[int, int]
) -> Iterator[dict[str, Any]]:
    """The file's prompts with a length in the range; whole lines before the function fill a short one up."""
    low, high = num_tokens
    low += digest(source.name) % (
        (high - low) // 2
    )  # lengths spread out, although context is only added as needed
    lines = source.text.split("\n")
    for first, cut in cuts(source):
        start = first
        while start > 0 and len(tokenizer.encode("\n".join(lines[start:cut]))) < low:
            start = max(0, start - 5)
        prompt = "\n".join(lines[start:cut])
        if prompt.strip() and low <= len(tokenizer.encode(prompt)) <= high:
            reference = "\n" + "\n".join(lines[cut:])[: REFERENCE_CHARS - 1]
            yield {"source": source.name, "licence": source.licence, "prompt": prompt, "reference": reference}


def choose(sources: Iterable[Source], tokenizer: PreTrainedTokenizerFast) -> list[dict[str, Any]]:
    """NUM_SHORT short and NUM_LONG long prompts, spread over the files that have no notice of their own."""
    chosen: list[dict[str, Any]] = []
    own = [s for s in sources if "copyright" not in s.text.lower() and "idlelib" not in s.name]
    for count, span, long in ((NUM_SHORT, SHORT_TOKENS, False), (NUM_LONG, LONG_TOKENS, True)):
        found: list[tuple[int, int, dict[str, Any]]] = []
        for source in own:
            ranked = sorted(prompts_of(source, tokenizer, span), key=lambda p: digest(p["prompt"]))
            found.extend((place, digest(p["prompt"]), p) for place, p in enumerate(ranked[:MAX_PER_FILE]))
        for _, _, prompt in sorted(found, key=lambda item: item[:2])[:count]:
            chosen.append({"id": f"heldout-{len(chosen):03d}", **prompt, "long": long})
    return chosen


def write(path: Path, sources: Iterable[Source], tokenizer: PreTrainedTokenizerFast) -> None:
    """Writes one JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(p, ensure_ascii=False) + "\n" for p in choose(sources, tokenizer)))


def read(path: Path) -> list[dict[str, Any]]:
    """The prompts of a file that `write` wrote."""
    return [json.loads(line) for line in path.read_text().splitlines()]
