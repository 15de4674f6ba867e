"""Fixtures that start real servers, a few, shared by the whole session."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from sglang_mirror.bench.pair import embedded_pair
from sglang_mirror.bench.server import Server
from tests.e2e.fleet import LOGS, MIRROR_TRACE, Fleet, with_draft

SERVER_TEST_TIMEOUT_S = 600


@pytest.fixture(scope="session")
def fleet() -> Iterator[Fleet]:
    """All servers; at the end none of their processes may be left."""
    pair = embedded_pair()
    if not (pair.target / "config.json").is_file():
        pytest.fail(f"no pair at {pair.target.parent}; MIRROR_TEST_PAIR may name another folder")
    LOGS.mkdir(parents=True, exist_ok=True)
    servers = Fleet(pair)
    try:
        yield servers
    finally:
        left = servers.stop_all(politely=True)
    assert not left, f"processes left behind: {left}"


@pytest.fixture(scope="session")
def servers(fleet: Fleet) -> tuple[Server, Server]:
    """Plain and mirror, the two that most tests compare: they start side by side."""
    MIRROR_TRACE.unlink(missing_ok=True)
    plain, mirror = fleet.plain(), fleet.mirror(trace=MIRROR_TRACE)
    return plain.wait(), with_draft(mirror)


@pytest.fixture(scope="session")
def plain_server(servers: tuple[Server, Server]) -> Server:
    return servers[0]


@pytest.fixture(scope="session")
def mirror_server(servers: tuple[Server, Server]) -> Server:
    return servers[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A busy machine takes minutes to start a server; a test that needs one may wait for it."""
    for item in items:
        if item.get_closest_marker("server") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SERVER_TEST_TIMEOUT_S))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A failed test shows the last lines of its servers' logs."""
    outcome: Any = yield
    result = outcome.get_result()
    fleet_ = getattr(item, "funcargs", {}).get("fleet")
    if result.failed and fleet_ is not None:
        for name, tail in fleet_.log_tails().items():
            result.sections.append((f"log of server {name}", tail))
