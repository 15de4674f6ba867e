"""`sglang-mirror train` as a user runs it, on a tiny model, and what it says of input that cannot work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sglang_mirror.bench.pair import embedded_pair
from sglang_mirror.cli import EXIT_ERROR, main
from sglang_mirror.draft.backends.load import load_torch
from sglang_mirror.train.streaming import load_streaming
from sglang_mirror.train.texts import documents

TEXT = "def read_lines(path):\n    with open(path) as file:\n        return file.readlines()\n" * 40


@pytest.fixture
def text(tmp_path: Path) -> Path:
    folder = tmp_path / "text"
    folder.mkdir()
    (folder / "a.py").write_text(TEXT)
    rows = [
        {"text": TEXT},
        {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]},
    ]
    (folder / "b.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def train(text: Path, out: Path, *more: str) -> int:
    sizes = ("--tokens", "768", "--window", "64", "--batch-tokens", "128")
    return main(
        [
            "train",
            "--model",
            str(embedded_pair().draft),
            "--text",
            str(text),
            "--out",
            str(out),
            *sizes,
            *more,
        ]
    )


def test_text_from_everywhere(text: Path) -> None:
    assert list(documents([text])) == [TEXT, TEXT, "x\n\ny"]


@pytest.mark.parametrize("more", [(), ("--lora", "4")])
def test_a_streaming_draft_comes_out(text: Path, tmp_path: Path, more: tuple[str, ...]) -> None:
    if more:
        pytest.importorskip("peft")
    out = tmp_path / "draft"
    assert train(text, out, "--streams", "3", "--layers", "2", *more) == 0
    assert load_streaming(out).streams.count == 3
    assert load_torch(str(out), device="cpu", dtype="float32", threads=1).vocab_size == 4096
    assert "768 tokens" in (out / "README.md").read_text()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--streams", "0"), "--streams 0: must be at least 1"),
        (("--layers", "9"), "--layers 9: the model has 2; give 1 to 2"),
        (("--own-text", "1"), "--own-text 1.0: a share"),
        (("--target", "/nowhere"), "--target /nowhere: no model folder"),
        (("--text", "/nowhere"), "--text /nowhere: no such file"),
        (("--window", "100000"), "fewer than one window of 100001"),
        (("--device", "gpu"), "--device gpu: cannot train there"),
    ],
)
def test_refusals(
    text: Path, tmp_path: Path, more: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(text, tmp_path / "draft", *more) == EXIT_ERROR
    lines = capsys.readouterr().err.strip().splitlines()
    assert said in lines[-1]
    assert not (tmp_path / "draft").exists()


def test_a_line_without_text_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.jsonl").write_text('{"text": "good"}\n{"nothing": 1}\n')
    assert train(tmp_path / "bad.jsonl", tmp_path / "draft") == EXIT_ERROR
    assert "bad.jsonl, line 2" in capsys.readouterr().err
