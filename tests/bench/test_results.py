"""The pages of figures come from the JSON files and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sglang_mirror.bench.output import read_results
from sglang_mirror.bench.results import (
    BY_HAND,
    DETAILS_PAGE,
    FOLDER,
    MARKS,
    NOT_RUN,
    PAGE,
    README,
    cores,
    details,
    page,
    summary,
)
from sglang_mirror.bench.results_compare import by_task, comparison, overall, tuning
from sglang_mirror.bench.results_exact import law
from sglang_mirror.bench.results_gpu import rollouts
from sglang_mirror.bench.results_latency import latency
from sglang_mirror.bench.results_soak import soaked
from tests.bench.test_report import NUMBERS, OURS, content, entry

__all__ = ["content"]


def test_the_pages_are_generated() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(FOLDER)
    assert DETAILS_PAGE.read_text(encoding="utf-8") == details(FOLDER)
    if (FOLDER / "bench.json").is_file():
        table = summary(read_results(FOLDER / "bench.json"))
        readme = README.read_text(encoding="utf-8")
        assert readme.split(MARKS[0])[1].split(MARKS[1])[0] == f"\n{table}\n"


@pytest.fixture
def compared(content: dict[str, Any]) -> dict[str, Any]:
    parts = {"target": 13.0, "exit": 0.0, "draft_exposed": 8.0, "rendezvous": 0.1, "host": 4.0, "wall": 25.1}
    serial = entry("serial", step_ms=parts, hit_rate={"all": 0.0}, ratios={})
    ours = {**OURS, "ratios": {"plain": NUMBERS, "serial": NUMBERS}}
    return {**content, "results": [entry("plain", ratios={}), serial, ours]}


def test_the_law_is_worked_out_from_the_parts_of_both(compared: dict[str, Any]) -> None:
    [row] = [line for line in latency(compared).splitlines() if "| mirror |" in line]
    besides = 1.1 + 0.4 + (1 - 0.81) * 8.0 + 4.0
    alone, beside = 13.0 + besides, OURS["step_ms"]["target"] + besides
    first, second = (f"{each:.2f} | {each / 20.5 - 1:+.1%}" for each in (alone, beside))
    assert f"| 20.50 | {first} | 14.00 | {second} |" in row


def test_a_comparison_says_what_mirror_is_against_each(compared: dict[str, Any]) -> None:
    """Of those that there are."""
    text = comparison(compared)
    assert "|  | arm | against plain | against serial |" in text
    assert "| mirror | 1.93 (1.70 to 2.20) | 1.93 (1.70 to 2.20) |" in text
    assert "eagle3 did not run: no <head>" in text


def test_arms_of_two_groups_are_compared_by_what_both_are_against_plain(compared: dict[str, Any]) -> None:
    other = entry("plain:cores=all", speedup={**NUMBERS, "of_totals": 1.25}, ratios={})
    text = comparison({**compared, "results": [*compared["results"], other]})
    assert "| mirror | 1.93 (1.70 to 2.20) | 1.54 by plain | 1.93 (1.70 to 2.20) |" in text


def test_the_law_says_the_worst_of_each_setting(compared: dict[str, Any]) -> None:
    found = {
        **{"arm": "mirror", "setting": "top_p", "smallest_p": 0.02852, "num_tests": 28, "holds": True},
        "groups": {"hit": {"num_tokens": 20000}, "fresh": {"num_tokens": 1354}},
    }
    said = law({**compared, "results": [found, {**found, "filtered_in_turn_p": 0.0, "holds": False}]})
    assert "| mirror | top_p | 21354 | 0.0285 of 28 | 0.00036 | yes | - |" in said
    assert "| mirror | top_p | 21354 | 0.0285 of 28 | 0.00036 | no | 0 |" in said


def test_single_tasks_are_on_the_page_of_details(compared: dict[str, Any]) -> None:
    task = {**compared["results"][2], "workload": "chats/qa"}
    both = {**compared, "results": [*compared["results"], task]}
    assert "chats/qa" not in overall(both)
    assert "**chats, temp" in overall(both)
    assert "**chats/qa, temp" in by_task(both)
    assert "**chats, temp" not in by_task(both)


@pytest.mark.parametrize(
    ("command", "count"),
    [
        ("taskset -c 0 python -m sglang.launch_server", 1),
        ("taskset -c 0,1 python -m sglang.launch_server", 2),
        ("taskset -c 0 python -m sglang.launch_server --mirror-draft-cpus 1", 2),
        ("taskset -c 0 python -m sglang.launch_server --mirror-draft-cpus 0", 1),
    ],
)
def test_cores(command: str, count: int) -> None:
    assert cores(command) == count


def test_notes_go_above_their_sections_tables(tmp_path: Path, compared: dict[str, Any]) -> None:
    (tmp_path / "bench.json").write_text(json.dumps(compared))
    words = {
        BY_HAND: "| a | b | yes | c |",
        NOT_RUN: "* this",
        "The comparison": "Said.",
        "On the whole": "Last.",
    }
    text = "".join(f"## {title}\n\n{body}\n\n" for title, body in words.items())
    (tmp_path / "notes.md").write_text(f"For writers.\n\n{text}")
    said = page(tmp_path)
    assert "For writers" not in said
    assert "| not measured | gpu-check.json |\n" in said
    assert f"|\n| a | b | yes | c |\n\n## {NOT_RUN}\n\n* this\n\n## The comparison\n\nSaid.\n\n`" in said
    assert said.endswith("## On the whole\n\nLast.\n")


def test_tuning_is_against_the_first(compared: dict[str, Any]) -> None:
    assert "| own | mirror | 123.4 | 1.93 (1.70 to 2.20) | 4.64 |" in tuning(compared)


def test_rollouts_are_of_the_backends_that_were_timed() -> None:
    timed = {"forward_ms": {rows: {"median": 1.25} for rows in ("1", "16", "64", "128")}}
    facts = dict.fromkeys(("shape", "device", "torch_version", "text", "roots", "gamma"), "0")
    text = rollouts({**facts, "torch-fused": {**timed, "draft_ms": {"median": 8.5}}})
    assert text.splitlines()[-1] == "| CUDA graphs, merged kernels | 1.25 | 1.25 | 1.25 | 1.25 | 8.50 |"
    assert "eagerly" not in text


def test_a_soak_says_what_was_lost_and_when_mirror_was_back(compared: dict[str, Any]) -> None:
    found = {
        **{"provenance": compared["provenance"], "requests": 900, "sampled": 180, "left": 90, "lost": 1},
        **{"wrong_text": 2, "held": 3, "rss_mb": {"start": 4000.4, "middle": 4001.0, "end": 4002.6}},
        "faults": [
            {"fault": "killed", "at_s": 4.0, "back_s": 5.5},
            {"fault": "killed", "at_s": 14.0, "back_s": None},
            {"fault": "stopped", "at_s": 24.0, "back_s": 2.6},
        ],
    }
    text = soaked(found)
    assert "| 900 | 180 | 90 | 1 | 2 | 3 | 4000 | 4001 | 4003 |" in text
    assert "| killed | 2 | 5.5 (at most 5.5), 1 times not |" in text
    assert "| stopped | 1 | 2.6 (at most 2.6) |" in text
    assert "the draft was" not in soaked({**found, "faults": []})
