"""A draft that guesses wrong is left alone, a good one asked again; windows end where going on does not pay.

The text is always plain decoding's.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sglang_mirror.bench.server import Server
from tests.e2e.fleet import (
    Fleet,
    both,
    draft_at,
    flags,
    generate_all,
    mirror_flags,
    prompts,
    report,
    texts,
    wait_for,
    with_draft,
)

pytestmark = pytest.mark.server

NUM_TOKENS = 96
MOST_ROUNDS = 12


def rounds_until(server: Server, expected: list[str], happened: Callable[[dict[str, Any]], bool]) -> None:
    """Ask the same, one at a time, until what the server reports shows it."""
    for _ in range(MOST_ROUNDS):
        assert texts(generate_all(server, prompts(8), NUM_TOKENS)) == expected
        if happened(report(server)):
            return
    pytest.fail(f"not in {MOST_ROUNDS} rounds: {report(server)}")


def speculating(said: dict[str, Any]) -> bool | None:
    """Whether single requests have windows; None before it is known."""
    found: bool | None = said["speculating"]["greedy"].get("1")
    return found


def test_speculation_is_given_up_and_taken_up(
    fleet: Fleet, plain_server: Server, tmp_path_factory: pytest.TempPathFactory
) -> None:
    expected = texts(generate_all(plain_server, prompts(8), NUM_TOKENS))
    folder: Path = tmp_path_factory.mktemp("policy")
    endpoint = f"ipc://{folder}/draft"
    server = fleet.launch("policy", flags(*mirror_flags(None, draft_endpoint=endpoint))).wait()
    with draft_at(endpoint, fleet.pair, backend="scripted"):
        wait_for(lambda: report(server)["draft"] == "ready")
        rounds_until(server, expected, lambda said: speculating(said) is False)
    wait_for(lambda: report(server)["draft"] == "lost")
    with draft_at(endpoint, fleet.pair):
        wait_for(lambda: report(server)["draft"] == "ready")
        rounds_until(server, expected, lambda said: speculating(said) is True)
        rounds_until(server, expected, lambda said: said["least_chance"] > 0.0)
    fleet.stop("policy")


def test_the_exit_goes_unread_where_it_does_not_pay(fleet: Fleet, plain_server: Server) -> None:
    """On a CPU it mostly does not: half of a verification of 15 ms is no time for a rollout."""
    expected = texts(generate_all(plain_server, prompts(8), NUM_TOKENS))
    server = with_draft(fleet.launch("exit", flags(*mirror_flags(fleet.pair.draft, miss="wait"))))
    assert report(server)["signals"] is True
    rounds_until(server, expected, lambda said: said["signals"] is False)
    before = report(server)
    assert texts(generate_all(server, prompts(8), NUM_TOKENS)) == expected
    assert report(server)["hits"]["draft"] > before["hits"]["draft"]
    fleet.stop("exit")


def test_nobody_waits(fleet: Fleet, plain_server: Server) -> None:
    """What missed goes on without a window beside those that have one, and has branches in the next step."""
    server = with_draft(
        fleet.launch("patience", flags(*mirror_flags(fleet.pair.draft, miss="plain", speculate="always")))
    )
    wanted, found = both(
        (plain_server, server), lambda each: texts(generate_all(each, prompts(8), NUM_TOKENS, concurrency=4))
    )
    assert found == wanted
    said = report(server)
    assert said["waited_ms"] == 0.0
    assert 0 < said["plain_steps"] < said["steps"]
    assert said["hits"]["draft"] > 0
    fleet.stop("patience")
