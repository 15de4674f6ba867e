"""Arms in turn: a few questions through each, so that all meet the same host."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx

from sglang_mirror.bench.chat import Asker
from sglang_mirror.bench.runs import Lap, Run, counters
from sglang_mirror.bench.server import Server
from sglang_mirror.bench.workload import Question
from sglang_mirror.errors import MirrorError

# A server that ends drops its connections first.
ENDING_S = 2.0

Tick = Callable[[str], None]


class ArmError(MirrorError):
    """An arm's server failed while it was measured.

    Attributes:
        arm: its name.
    """

    def __init__(self, arm: str, reason: str) -> None:
        self.arm = arm
        super().__init__(reason)


def run_once(
    servers: Mapping[str, Server],
    asker: Asker,
    questions: Sequence[Question],
    *,
    concurrency: int = 1,
    first: int = 0,
    tick: Tick = lambda _arm: None,
) -> dict[str, Run]:
    """All questions once through every server, `concurrency` at a time through each in turn.

    Args:
        servers: by arm.
        asker: asks them.
        questions: what is asked.
        concurrency: questions at once, and in a lap.
        first: which arm begins; the next round begins with the next.
        tick: told the arm whose lap is over.

    Raises:
        ArmError: a server refused, or did not answer in time.
    """
    before = {name: _report(name, server) for name, server in servers.items()}
    laps: dict[str, list[Lap]] = {name: [] for name in servers}
    names = list(servers)
    with ThreadPoolExecutor(concurrency) as pool:
        for number, start in enumerate(range(0, len(questions), concurrency)):
            some = questions[start : start + concurrency]
            offset = (first + number) % len(names)
            for name in names[offset:] + names[:offset]:
                laps[name].append(_lap(pool, name, servers[name], asker, some))
                tick(name)
    found = {}
    for name, server in servers.items():
        grown = counters(_report(name, server))
        grown.subtract(counters(before[name]))
        found[name] = Run(tuple(laps[name]), grown)
    return found


def _lap(
    pool: ThreadPoolExecutor, name: str, server: Server, asker: Asker, questions: Sequence[Question]
) -> Lap:
    began = time.perf_counter()
    try:
        answers = tuple(pool.map(lambda question: asker.ask(server.url, question), questions))
    except httpx.HTTPError as error:
        raise _failed(name, server, error) from error
    return Lap(answers, time.perf_counter() - began)


def _report(name: str, server: Server) -> dict[str, object] | None:
    try:
        return server.info().get("mirror")
    except httpx.HTTPError as error:
        raise _failed(name, server, error) from error


def _failed(name: str, server: Server, error: httpx.HTTPError) -> ArmError:
    try:
        status = server.wait_for_exit(ENDING_S)
    except subprocess.TimeoutExpired:
        return ArmError(name, f"its server did not answer: {error!r}")
    return ArmError(name, f"its server ended with status {status}:\n{server.log_tail()}")
