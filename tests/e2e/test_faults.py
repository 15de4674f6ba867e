"""The draft dies, hangs, is missing, late or wrong: the text stays right, and mirror comes back."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import zmq

from sglang_mirror.bench.client import Completion
from sglang_mirror.bench.server import Server
from tests.e2e.fleet import (
    LOGS,
    Fleet,
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


@pytest.fixture(scope="module")
def expected(plain_server: Server) -> list[str]:
    return texts(generate_all(plain_server, prompts(8), NUM_TOKENS, concurrency=8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("line")  # short enough for a socket's path


@pytest.fixture(scope="module")
def launched(
    fleet: Fleet,
    plain_server: Server,  # noqa: ARG001
    folder: Path,
) -> Iterator[tuple[Server, Server]]:
    """A server with its own draft, and one whose draft is expected at an endpoint where nothing is.

    They start side by side, after the plain one: four at once are more than two cores start in time.
    """
    arguments = flags(*mirror_flags(None, draft_endpoint=f"ipc://{folder}/draft", speculate="always"))
    yield fleet.mirror("faults", speculate="always"), fleet.launch("waiting", arguments)
    assert fleet.stop("waiting") == []


@pytest.fixture(scope="module")
def server(launched: tuple[Server, Server]) -> Server:
    return with_draft(launched[0])


@pytest.fixture(scope="module")
def waiting(launched: tuple[Server, Server]) -> Server:
    return launched[1].wait()


def answers_during(server: Server, fault: Future[None] | None = None) -> list[Completion]:
    if fault is not None:
        fault.result(timeout=60)
    return generate_all(server, prompts(8), NUM_TOKENS, concurrency=8)


def strike(server: Server, pid: int, number: int) -> list[Completion]:
    """Send a signal to the draft in the middle of eight requests."""
    before = report(server)["steps"]
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(generate_all, server, prompts(8), NUM_TOKENS, concurrency=8)
        wait_for(lambda: report(server)["steps"] > before + 16 or running.done())
        os.kill(pid, number)
        assert not running.done(), "the requests ended before the fault"
        return running.result()


def mirrors_again(server: Server) -> None:
    """Mirror is back: accepted tokens and hits."""
    wait_for(lambda: report(server)["draft"] == "ready")
    before = report(server)
    answers = generate_all(server, prompts(3), NUM_TOKENS)
    after = report(server)
    assert any(answer.meta["spec_accept_length"] > 1 for answer in answers)
    assert sum(after["hits"].values()) > sum(before["hits"].values())
    assert after["steps"] - before["steps"] > after["plain_steps"] - before["plain_steps"]


def test_draft_killed(server: Server, expected: list[str]) -> None:
    before = report(server)
    answers = strike(server, before["draft_pid"], signal.SIGKILL)
    assert texts(answers) == expected
    wait_for(
        lambda: report(server)["draft"] == "ready" and report(server)["draft_pid"] != before["draft_pid"]
    )
    assert report(server)["restarts"] == 1
    assert report(server)["connections"] == before["connections"] + 1
    mirrors_again(server)


def test_draft_stopped(server: Server, expected: list[str]) -> None:
    before = report(server)
    answers = strike(server, before["draft_pid"], signal.SIGSTOP)
    try:
        assert texts(answers) == expected
        wait_for(lambda: report(server)["draft"] == "lost")
        assert texts(answers_during(server)) == expected
    finally:
        os.kill(before["draft_pid"], signal.SIGCONT)
    mirrors_again(server)
    assert report(server)["draft_pid"] == before["draft_pid"]
    assert report(server)["restarts"] == before["restarts"]


def test_server_killed_takes_its_draft_along(server: Server, fleet: Fleet) -> None:
    """Runs after the others of this module: they share the server."""
    members, said = server.family(), report(server)
    assert said["draft_pid"] in [process.pid for process in members]
    server.kill()
    _, alive = psutil.wait_procs(members, timeout=30)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
    assert not Path(said["endpoint"].removeprefix("ipc://")).parent.exists()
    fleet.stop("faults")


def test_no_draft_reachable(waiting: Server, expected: list[str], folder: Path) -> None:
    found = report(waiting)
    assert found["draft"] == "unreached"
    assert found["draft_pid"] is None
    assert f"no draft is reachable at ipc://{folder}/draft" in (LOGS / "waiting.log").read_text()
    answers = answers_during(waiting)
    assert texts(answers) == expected
    assert report(waiting)["plain_steps"] == report(waiting)["steps"] > 0


def test_draft_started_later_is_used(
    waiting: Server, expected: list[str], folder: Path, fleet: Fleet
) -> None:
    with draft_at(f"ipc://{folder}/draft", fleet.pair):
        mirrors_again(waiting)
        assert texts(answers_during(waiting)) == expected
    wait_for(lambda: report(waiting)["draft"] == "lost")
    assert texts(answers_during(waiting)) == expected
    with draft_at(f"ipc://{folder}/draft", fleet.pair):
        mirrors_again(waiting)


@pytest.mark.parametrize("script", ["", ":delay_s=0.3", ":fail_after=60", ":hang_after=60", ":beyond=500"])
def test_scripted_draft(
    waiting: Server, expected: list[str], folder: Path, fleet: Fleet, script: str
) -> None:
    """The fault has happened, too: by what came of it one can tell which it was."""
    num_drafts = report(waiting)["connections"]
    with draft_at(f"ipc://{folder}/draft", fleet.pair, backend=f"scripted{script}"):
        # That the one before has ended may not have been noticed yet.
        wait_for(lambda: report(waiting)["connections"] > num_drafts)
        before = report(waiting)
        assert texts(answers_during(waiting)) == expected
        after = report(waiting)
        grown = {name: after[name] - before[name] for name in ("steps", "plain_steps")}
        with_window = grown["steps"] - grown["plain_steps"]
        if script == ":delay_s=0.3":  # longer than anyone waits
            assert with_window < grown["plain_steps"]
        else:
            assert with_window > 0
        if script in ("", ":beyond=500"):
            assert grown["plain_steps"] < with_window
        if script in (":fail_after=60", ":hang_after=60"):  # it ends after a few that fail in a row
            assert grown["plain_steps"] > 0
            wait_for(lambda: report(waiting)["draft"] == "lost")


def test_garbage_from_the_endpoint(waiting: Server, expected: list[str], folder: Path) -> None:
    """Runs last: who talks nonsense is refused for good."""
    wait_for(lambda: report(waiting)["draft"] != "ready")
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        socket.linger = 0
        socket.bind(f"ipc://{folder}/draft")
        assert socket.poll(20_000)
        socket.send_multipart([socket.recv_multipart()[0], b"\xc1 nonsense"])
        wait_for(lambda: report(waiting)["draft"] == "refused")
        assert texts(answers_during(waiting)) == expected
    assert "is the peer sglang-mirror" in (LOGS / "waiting.log").read_text()
