"""A target split over two ranks, by gloo: the first speaks with the draft, both verify the same windows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sglang_mirror.bench.identity import divergences
from sglang_mirror.bench.pair import embedded_pair
from sglang_mirror.bench.server import Server
from tests.e2e.fleet import Fleet, both, flags, generate_all, mirror_flags, prompts, report, with_draft

pytestmark = pytest.mark.server

SPLIT = ("--tp-size", "2")
CORES = {"SGLANG_CPU_OMP_THREADS_BIND": "0|1"}  # one for each rank; SGLang wants to be told


@pytest.fixture(scope="module")
def split() -> Iterator[tuple[Server, Server]]:
    """Plain and mirror, both split: a sum over ranks rounds otherwise than one over all."""
    fleet = Fleet(embedded_pair(), label="split-")
    try:
        plain = fleet.launch("plain", flags(*SPLIT, "--disable-overlap-schedule"), environment=CORES)
        mirror = fleet.launch("mirror", flags(*SPLIT, *mirror_flags(fleet.pair.draft)), environment=CORES)
        yield plain.wait(), with_draft(mirror)
    finally:
        left = fleet.stop_all()
    assert not left


@pytest.mark.parametrize("concurrency", [1, 4])
def test_text_is_plain_decodings(split: tuple[Server, Server], concurrency: int) -> None:
    plain, mirror = both(split, lambda server: generate_all(server, prompts(8), 48, concurrency=concurrency))
    assert divergences(mirror, plain) == []


def test_it_is_mirror_that_answers(split: tuple[Server, Server]) -> None:
    """The exit's head is split too, and read by both ranks."""
    generate_all(split[1], prompts(8), 48, concurrency=1)
    counted = report(split[1])
    assert counted["accept_len"] > 2
    assert counted["hits"]["draft"] > 0
    assert counted["plain_steps"] < counted["steps"] / 2
