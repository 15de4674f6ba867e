"""The rows of the check on a GPU: what an earlier run found is kept, and what was not found is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sglang_mirror.bench import output, provenance
from sglang_mirror.bench.output import read_results
from tests.gpu.rows import Key, Rows

FIRST: Key = ("qwen3", "fa3", "tree")
SECOND: Key = ("llama", "triton", "graphs")


def written(path: Path) -> dict[Key, dict[str, Any]]:
    return {(row["family"], row["backend"], row["arm"]): row for row in read_results(path)["results"]}


def test_what_was_not_found_is_named(tmp_path: Path) -> None:
    path = tmp_path / "check.json"
    rows = Rows(path, [FIRST, SECOND])
    with rows.row(FIRST) as row:
        row["identical"] = 24
    assert written(path)[FIRST] == {
        **{"family": "qwen3", "backend": "fa3", "arm": "tree", "failed": None, "identical": 24}
    }
    assert written(path)[SECOND]["failed"] == "not run"
    rows.failed([SECOND], "triton is not installed")
    assert written(path)[SECOND]["failed"] == "triton is not installed"


def test_what_ends_a_test_is_its_reason(tmp_path: Path) -> None:
    path = tmp_path / "check.json"
    with pytest.raises(AssertionError), Rows(path, [FIRST]).row(FIRST) as row:
        row["identical"] = 23
        raise AssertionError("one text differs\nand here is more")
    assert written(path)[FIRST]["failed"] == "one text differs"
    assert written(path)[FIRST]["identical"] == 23


def test_an_earlier_run_is_kept_if_it_was_of_this_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "check.json"
    Rows(path, [FIRST, SECOND]).failed([FIRST], "no server")
    Rows(path, [FIRST, SECOND]).failed([SECOND], "no draft")
    assert [row["failed"] for row in written(path).values()] == ["no server", "no draft"]
    other = {**provenance.provenance(), "commit": "another"}
    monkeypatch.setattr(output, "provenance", lambda: other)
    Rows(path, [FIRST, SECOND]).failed([FIRST], "no server")
    monkeypatch.undo()
    Rows(path, [FIRST, SECOND]).failed([SECOND], "no draft")
    assert [row["failed"] for row in written(path).values()] == ["not run", "no draft"]
