"""The pages of figures come from the JSON files and nowhere else."""

from __future__ import annotations

from typing import Any

import pytest

from sglang_mirror.bench.output import read_results
from sglang_mirror.bench.results import (
    FOLDER,
    MARKS,
    PAGE,
    README,
    comparison,
    latency,
    page,
    summary,
    tuning,
)
from sglang_mirror.bench.results_gpu import rollouts
from sglang_mirror.bench.results_soak import soaked
from tests.bench.test_report import NUMBERS, OURS, content, entry

__all__ = ["content"]


def test_the_pages_are_generated() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(FOLDER)
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
    predicted, alone = (OURS["step_ms"]["target"] + besides), 13.0 + besides
    differences = (f"{each / 20.5 - 1:+.1%}" for each in (predicted, alone))
    assert f"| {predicted:.2f} | 20.50 | {' | '.join(differences)} |" in row


def test_a_comparison_says_what_mirror_is_against_each(compared: dict[str, Any]) -> None:
    text = comparison(compared)
    assert "| mirror | 1.93 (1.70 to 2.20) | - | - | - | 1.93 (1.70 to 2.20) |" in text
    assert "eagle3 did not run: no <head>" in text


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
