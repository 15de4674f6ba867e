"""What the draft's command does where nothing is asked of it, by device."""

from __future__ import annotations

import argparse

import pytest

from sglang_mirror.draft.command import add_arguments, limits, spin_ms
from sglang_mirror.draft.scheduler import Limits


def parsed(*options: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(["--model", "m", "--endpoint", "ipc://e", *options])


@pytest.mark.parametrize(
    ("device", "expected", "spins_ms"),
    [
        ("cpu", Limits(rows=64, rows_after_signal=4, streamed_branches=False), 0.0),
        (
            "cuda:1",
            Limits(
                rows=128,
                rows_while_awaited=64,
                rows_after_signal=None,
                streamed_branches=True,
                shared_prefill_rows=128,
            ),
            50.0,
        ),
    ],
)
def test_what_suits_the_device(device: str, expected: Limits, spins_ms: float) -> None:
    assert limits(parsed(), device) == expected
    assert spin_ms(parsed(), device) == spins_ms


@pytest.mark.parametrize(("device", "awaited"), [("cpu", 8), ("cuda", 64)])
def test_what_was_asked_for(device: str, awaited: int) -> None:
    asked = parsed(
        *("--rows", "5", "--rows-after-signal", "7", "--prefill-rows", "9", "--spin-ms", "0"),
        "--no-streamed-branches",
    )
    assert limits(asked, device) == Limits(
        rows=5,
        rows_while_awaited=awaited,
        rows_after_signal=7,
        streamed_branches=False,
        prefill_rows=9,
        shared_prefill_rows=9,
    )
    assert spin_ms(asked, device) == 0.0
