"""Prompts are cut where they should be."""

from __future__ import annotations

from sglang_mirror.train.corpus import Source
from sglang_mirror.train.heldout import MIN_LINES_LEFT, prompts_of
from sglang_mirror.train.tokenizer import train_tokenizer

FUNCTION = "@decorated\ndef work(items):\n    '''Doc.'''\n    total = 0\n    count = 0\n" + "".join(
    f"    total += items[{i}]\n" for i in range(12)
)


def test_a_prompt_ends_inside_the_body_and_the_reference_goes_on() -> None:
    text = "import os\n\n" + FUNCTION + "\nprint(work([]))\n"
    source = Source(name="Lib/x.py", package="CPython", version="3", licence="PSF-2.0", text=text)
    tokenizer = train_tokenizer(["a"])  # a token a byte
    (prompt,) = prompts_of(source, tokenizer, (2, 200))
    assert prompt["prompt"].endswith("    total += items[1]")
    assert prompt["reference"].startswith("\n    total += items[2]\n")
    assert prompt["prompt"] + prompt["reference"] in text


def test_a_short_function_gives_none() -> None:
    text = "def f(x):\n" + "    x += 1\n" * MIN_LINES_LEFT
    source = Source(name="Lib/x.py", package="CPython", version="3", licence="PSF-2.0", text=text)
    assert list(prompts_of(source, train_tokenizer(["a"]), (2, 200))) == []
