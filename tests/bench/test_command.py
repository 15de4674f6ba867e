"""What `sglang-mirror bench` says of input that cannot work, in one line and before a server starts."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sglang_mirror.bench.output import Output
from sglang_mirror.cli import EXIT_ERROR, main
from tests.bench.test_report import OURS, entry


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--arms", "plain", "mirrow"], "--arms mirrow: no such arm"),
        (["--workload", "{}/nothing.jsonl"], "nothing.jsonl, line 1"),
        (["--workload", "{}/nowhere.jsonl"], "nowhere.jsonl"),
        (["--target", "{}"], "no config.json"),
        (["--repeats", "0"], "--repeats 0: must be at least 1"),
        (["--concurrency", "0"], "--concurrency 0: must be at least 1"),
        (["--temperature", "-1"], "--temperature -1.0: must be at least 0"),
        (["--enlarge", "13b"], "shape '13b': give one of"),
        (["--enlarge", "own", "0.25b+tiny"], "shape 'tiny': give one of"),
        (["--together", "1"], "--together 1: must be at least 2"),
        (["--enlarge", "64x64x1x1x1x64x4096"], "hidden_size 64: must be at least 256"),
    ],
)
def test_one_line(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "nothing.jsonl").write_text("{}\n", encoding="utf-8")
    out = tmp_path / "none.json"
    words = [word.format(tmp_path) for word in arguments]
    assert main(["bench", "run", "--json", str(out), *words]) == EXIT_ERROR
    found = capsys.readouterr().err.strip().splitlines()
    assert len(found) == 1
    assert said in found[0]
    assert not out.exists()


def test_compare_and_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    Output(before).add([entry("plain"), OURS], {})
    Output(after).add([entry("plain"), {**OURS, "accept_len": 5.0}, entry("new")], {})
    assert main(["bench", "compare", str(before), str(after)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("mirror") and "4.64 -> 5.00" in line for line in lines)
    assert not any(line.startswith("new") for line in lines)
    assert main(["bench", "report", str(after), "--markdown", str(tmp_path / "t.md")]) == 0
    assert "<svg" in (tmp_path / "after.html").read_text(encoding="utf-8")
    assert "| mirror |" in (tmp_path / "t.md").read_text(encoding="utf-8")
    assert main(["bench", "report", str(tmp_path / "nowhere.json")]) == EXIT_ERROR


@pytest.mark.parametrize(
    ("kind", "files", "module"), [("run", 0, "table"), ("compare", 2, "table"), ("report", 1, "report")]
)
def test_what_is_not_installed_is_named_with_its_extra(
    kind: str, files: int, module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = f"sglang_mirror.bench.{module}"
    monkeypatch.setitem(sys.modules, missing, None)
    assert main(["bench", kind, *["none.json"] * files]) == EXIT_ERROR
    assert f"bench needs {missing}: pip install '.[bench]' in a checkout" in capsys.readouterr().err
