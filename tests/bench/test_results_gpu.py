"""What the page says of files from a GPU, older ones without provenance among them."""

from __future__ import annotations

from typing import Any

import pytest

from sglang_mirror.bench.provenance import provenance
from sglang_mirror.bench.results_gpu import checked, rollouts, signal

SIGNAL = {
    **{"shape": "qwen3-14b", "nodes": 9, "count": 100, "letters": 99, "torn": 0},
    **{name: {"median": ms} for name, ms in (("step_without_exit", 7.0), ("step_with_exit", 7.35))},
    **{"head_alone": {"median": 0.38}, "signal_at_host": 0.66, "signal_at_draft": None},
}


@pytest.fixture(name="origin")
def _origin() -> dict[str, Any]:
    return {"provenance": {**provenance(), "gpu": "NVIDIA H100, driver 580"}}


def test_the_signal_says_which_part_of_the_head_was_read(origin: dict[str, Any]) -> None:
    old = signal(SIGNAL)
    assert old.startswith("No provenance recorded.\n\n`python -m tests.gpu.signal_timing --shape qwen3-14b ")
    assert " --nodes 9 --count 100`" in old
    assert "letters lost: 1, torn: 0." in old
    assert "| with it | 7.35 (+5.0%) |" in old
    new = signal({**SIGNAL, **origin, "exit_vocab": 32768})
    assert new.startswith("`")
    assert "NVIDIA H100, driver 580" in new
    assert " --nodes 9 --exit-vocab 32768 --count 100`" in new


def test_rollouts(origin: dict[str, Any]) -> None:
    times = {
        "forward_ms": {rows: {"median": 1.5} for rows in ("1", "16", "64", "128")},
        "draft_ms": {"median": 12.594},
    }
    found = {"torch": times, "shape": "0.6b", "device": "H100", "torch_version": "2.11", "text": 512}
    found |= {"roots": 64, "gamma": 7}
    assert rollouts(found).startswith("No provenance recorded.")
    assert "| CUDA graphs | 1.50 | 1.50 | 1.50 | 1.50 | 12.59 |" in rollouts({**found, **origin})
    assert "eagerly" not in rollouts(found)
    assert "service" not in rollouts(found)
    served = {**times, "vocabulary": 151_936, "service_ms": {"median": 15.25}}
    said = rollouts({**found, "torch": served})
    assert "| CUDA graphs | 1.50 | 1.50 | 1.50 | 1.50 | 12.59 | 15.25 |" in said
    assert "Candidates are chosen from 151,936 ids." in said


@pytest.mark.parametrize("hits", [0.75, {"all": 0.75, "exit": 0.5, "draft": 0.25}])
def test_the_check_counts_differences_that_are_no_ties(hits: Any, origin: dict[str, Any]) -> None:
    row = {
        **{"arm": "tree", "family": "llama", "backend": "fa3", "num_prompts": 24, "identical": 21, "ties": 2},
        **{"unexplained": [{"prompt": 3}], "accept_len": 3.456, "hit_rate": hits, "steps": 500},
        **{"plain_steps": 4, "failed": "assert not [{...}]"},
    }
    missing = {"arm": "graphs", "family": "llama", "backend": "triton", "failed": "not run"}
    said = checked({**origin, "results": [row, missing]})
    assert "| llama | fa3 | tree | 21 of 24 | 2 | 1 | 3.46 | 0.75 | 500 (4) | assert not [{...}] |" in said
    assert "| llama | triton | graphs | - | - | - | - | - | - | not run |" in said
