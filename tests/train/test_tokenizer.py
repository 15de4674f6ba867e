"""Whatever text goes in comes out, and a chat is plain text."""

from __future__ import annotations

from pathlib import Path

import pytest

from sglang_mirror.train.tokenizer import END, VOCAB_SIZE, load_tokenizer, train_tokenizer

TEXTS = [
    "def f(x):\n\treturn x\n",
    "    \n\n  indented\r\n",
    "naïve 日本語 🚀 \x00\x7f",
    "".join(map(chr, range(1, 256))),
    "",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(["def f(self, x):\n    return self.x + x\n"] * 3).save_pretrained(path)
    return path


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_round_trips(folder: Path, text: str) -> None:
    tokenizer = load_tokenizer(folder)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(0 <= i < VOCAB_SIZE for i in ids)


def test_the_end_token_is_id_zero_and_never_added(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    assert tokenizer.convert_tokens_to_ids(END) == 0
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == 0
    assert 0 not in tokenizer.encode("def f(): pass")


def test_a_chat_is_text_to_go_on_from(folder: Path) -> None:
    chat = [
        {"role": "system", "content": "be brief\nplease"},
        {"role": "user", "content": "import os"},
        {"role": "assistant", "content": "import sys"},
        {"role": "user", "content": "def f(x):"},
    ]
    text = load_tokenizer(folder).apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == "# be brief\n# please\nimport os\nimport sys\ndef f(x):"
