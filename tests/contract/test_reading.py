"""The reading itself, on a release made of a few lines: what is there is found, what is not is missed."""

from __future__ import annotations

import ast
from functools import cache

import pytest

from tests.contract import ours
from tests.contract.names import Release
from tests.contract.reached import REACHED, REACHED_BY_PLATFORM
from tests.contract.signatures import Call, misfits, of_found

FILES = {
    "sglang/__init__.py": "",
    "sglang/a.py": """
from typing import TYPE_CHECKING
from sglang.b.deep import Base as Root, moved
from torch import Tensor
if TYPE_CHECKING:
    from sglang.b.deep import unseen
try:
    from sglang.b.deep import tried
except ImportError:
    tried = None
class Child(Root):
    size: int = 3
    def method(self, x, *, y, z=1): self.made = x
    @staticmethod
    def static(x): pass
short = moved
""",
    "sglang/b/__init__.py": "from .deep import *",
    "sglang/b/deep.py": """
from dataclasses import dataclass
class Base:
    def inherited(self): pass
@dataclass
class Record:
    first: int
    second: int = 2
def moved(a, b=1, **more): pass
def unseen(): pass
def tried(): pass
""",
}


class Text:
    def read(self, path: str) -> str | None:
        return FILES.get(path)

    def paths(self) -> list[str]:
        return list(FILES)


@cache
def release() -> Release:
    return Release("0", Text())


@pytest.mark.parametrize(
    "name",
    ["a.moved", "a.short", "a.tried", "a.Tensor.anything", "b.moved", "b.deep", "a.Root.inherited"],
)
def test_finds(name: str) -> None:
    assert release().find(f"sglang.{name}") is not None


@pytest.mark.parametrize("name", ["method", "size", "made", "inherited"])
def test_finds_members(name: str) -> None:
    assert release().find(f"sglang.a.Child.{name}") is not None


@pytest.mark.parametrize("name", ["c", "a.none", "a.unseen", "a.Child.none", "a.moved.none", "b.deep.none"])
def test_misses(name: str) -> None:
    assert release().find(f"sglang.{name}") is None


@pytest.mark.parametrize(
    ("name", "call", "reasons"),
    [
        ("b.moved", Call(1, frozenset({"other"})), 0),
        ("b.moved", Call(0, frozenset()), 1),
        ("b.moved", Call(3, frozenset()), 1),
        ("a.short", Call(None, frozenset()), 0),
        ("a.Child.method", Call(1, frozenset({"y"})), 0),
        ("a.Child.method", Call(1, frozenset({"y", "w"})), 1),
        ("a.Child.method", Call(1, frozenset(), sometimes=frozenset({"y"})), 0),
        ("a.Child.method", Call(1, frozenset(), any_keyword=True), 0),
        ("a.Child.static", Call(1, frozenset()), 0),
        ("b.Record", Call(0, frozenset({"first"})), 0),
        ("b.Record", Call(0, frozenset({"second"})), 1),
    ],
)
def test_judges_calls(name: str, call: Call, reasons: int) -> None:
    found = release().find(f"sglang.{name}")
    assert found is not None
    signature = of_found(release(), found)
    assert signature is not None
    assert len(misfits(signature, call)) == reasons


def test_reads_our_sources() -> None:
    uses = ours.engine_uses()
    verify = uses.calls["sglang.srt.speculative.eagle_worker_common.run_eagle_verify"]
    assert [(call.positional, set(call.sometimes)) for call in verify] == [(1, {"num_steps"})]
    assert "grammar_barrier" in verify[0].keywords
    assert "sglang.srt.model_executor.forward_batch_info.CaptureHiddenMode.NULL" in uses.names
    assert {"speculative_eagle_topk", "device", "enable_lora", "served_model_name"} <= uses.settings
    assert set(uses.classes) == {"MirrorAlgorithm", "MirrorWorker"}
    assert isinstance(uses.classes["MirrorWorker"][1], ast.ClassDef)


def test_nothing_is_listed_that_we_do_not_reach() -> None:
    for uses, reached in ((ours.engine_uses(), REACHED), (ours.platform_uses(), REACHED_BY_PLATFORM)):
        listed = {name for names in reached.values() for name in names}
        assert sorted(listed - uses.attributes) == []
