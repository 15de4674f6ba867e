"""Where figures come from can be read anywhere."""

from __future__ import annotations

import sys

import pytest

from sglang_mirror.bench.provenance import provenance


def test_the_command_has_no_folder_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["x", "--json", "/somewhere/else/a.json", "out/b.json"])
    assert provenance()["command"].endswith("--json a.json out/b.json")
