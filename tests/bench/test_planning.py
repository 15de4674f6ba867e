"""Which arms are measured side by side, and what a resumed run still has to measure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sglang_mirror.bench.arms import Arm
from sglang_mirror.bench.experiment import Plan
from sglang_mirror.bench.output import Output
from sglang_mirror.bench.planning import groups
from sglang_mirror.bench.workload import Question, Workload
from sglang_mirror.errors import MirrorError
from tests.bench.test_report import NUMBERS, entry


def grouped(names: str, together: int, num_references: int = 1) -> list[str]:
    found = groups([Arm(name) for name in names], together, num_references=num_references)
    return ["".join(arm.name for arm in group) for group in found]


@pytest.mark.parametrize(
    ("names", "together", "num_references", "found"),
    [
        ("p", 1, 1, ["p"]),
        ("pabc", 4, 1, ["pabc"]),
        ("pabc", 3, 1, ["pab", "pc"]),
        ("pabc", 2, 1, ["pa", "pb", "pc"]),
        ("peabc", 4, 2, ["peab", "pec"]),
        ("pe", 4, 2, ["pe"]),
        # No place beside both references: each has groups of its own.
        ("peab", 2, 2, ["pe", "pa", "pb", "ea", "eb"]),
    ],
)
def test_groups(names: str, together: int, num_references: int, found: list[str]) -> None:
    assert grouped(names, together, num_references) == found


def test_every_arm_meets_every_reference() -> None:
    for together in range(2, 7):
        for num_references in range(1, 4):
            found = grouped("abcdef", together, num_references)
            assert all(len(group) <= together for group in found)
            for reference in "abcdef"[:num_references]:
                met = {name for group in found if reference in group for name in group}
                assert met == set("abcdef"), (together, num_references)


QUESTION = Question("chats", ("?",), is_chat=True)
PLAN = Plan((Arm("plain"), Arm("mirror")), (Workload("chats", (QUESTION,)),))
BOTH = ["plain", "mirror"]


def test_an_arm_that_meets_another_later_gets_its_ratio(tmp_path: Path) -> None:
    output = Output(tmp_path / "bench.json")
    output.add([entry("plain", ratios={}), entry("mirror", ratios={"plain": NUMBERS})], {})
    assert not output.has(PLAN, "own", BOTH)
    again = [entry("plain", ratios={"mirror": NUMBERS, "new": NUMBERS}), entry("mirror", ratios={})]
    output.add(again, {})
    assert output.has(PLAN, "own", BOTH)
    assert not output.has(PLAN, "14b", BOTH)
    assert not output.has(PLAN, "own", [*BOTH, "new"])
    assert [each["arm"] for each in output.results] == BOTH
    assert set(output.results[0]["ratios"]) == {"mirror", "new"}


def test_a_resumed_run_has_what_the_file_has(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    assert Output.resumed(path).results == []
    ratios = {"plain": {"mirror": NUMBERS}, "mirror": {"plain": NUMBERS}}
    Output(path).add([entry(arm, ratios=ratios[arm]) for arm in BOTH], {"new": "it failed"})
    resumed = Output.resumed(path)
    assert resumed.has(PLAN, "own", BOTH)
    assert not resumed.skipped  # it is tried again
    content = json.loads(path.read_text(encoding="utf-8"))
    content["provenance"]["commit"] = "another"
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(MirrorError, match=r"--resume: .* was measured at another"):
        Output.resumed(path)
