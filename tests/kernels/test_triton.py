"""The Triton twins, by Triton's interpreter where there is no GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch


def run_cases(cases: Path, *options: str) -> None:
    """Run a file of tests in a process of its own: Triton decides at import whether it interprets."""
    pytest.importorskip("triton")
    interpreted = {} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(cases), *options],
        env={**os.environ, **interpreted},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert " passed" in done.stdout


@pytest.mark.parametrize("cases", ["triton_cases.py", "tree_cases.py", "project_cases.py"])
def test_against_the_references(cases: str) -> None:
    run_cases(Path(__file__).with_name(cases))
