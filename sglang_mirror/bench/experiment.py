"""An A/B run: every arm's server at once, every workload, temperature and concurrency through all in turn."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sglang_mirror.bench.arm_specs import Setup
from sglang_mirror.bench.arms import Arm, server
from sglang_mirror.bench.chat import Asker
from sglang_mirror.bench.interleave import ArmError, Tick, run_once
from sglang_mirror.bench.outside import bench_serving
from sglang_mirror.bench.pair import ROOT
from sglang_mirror.bench.runs import Run, result
from sglang_mirror.bench.server import START_TIMEOUT_S, Server, ServerError
from sglang_mirror.bench.workload import Workload
from sglang_mirror.errors import REFUSAL, MirrorError, reasons_in

logger = logging.getLogger(__name__)

# Task by task, arm by arm, one a repeat.
ByTask = dict[str, dict[str, list[Run]]]

WARM_UP_LAPS = 2


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured.

    Attributes:
        arms: in the order in which they take turns.
        workloads: what is asked.
        temperatures: of sampling.
        concurrencies: questions at once.
        num_tokens: most new tokens in a turn.
        repeats: times each arm runs through a workload.
        start_timeout_s: how long a server may take to start.
    """

    arms: tuple[Arm, ...]
    workloads: tuple[Workload, ...]
    temperatures: tuple[float, ...] = (0.0,)
    concurrencies: tuple[int, ...] = (1,)
    num_tokens: int = 128
    repeats: int = 3
    start_timeout_s: float = START_TIMEOUT_S

    @property
    def cells(self) -> Iterator[tuple[Workload, float, int]]:
        for workload in self.workloads:
            for temperature in self.temperatures:
                for concurrency in self.concurrencies:
                    yield workload, temperature, concurrency

    @property
    def num_laps(self) -> int:
        """Laps of one arm in the whole run, the warm-ups included."""
        return sum(
            WARM_UP_LAPS + self.repeats * -(-len(questions) // concurrency)
            for workload, _, concurrency in self.cells
            for questions in workload.by_task.values()
        )


# An error in a server's log. Of what it asks itself over HTTP none is the cause of anything.
_ERROR = re.compile(
    r"[\s-]*(?!requests|urllib3)([\w.]*(Error|Exception): .+)|.*(error while attempting to bind .+)"
)


def in_one_line(failure: str) -> str:
    """A server's end in one line: what happened, and the last of its log that names an error."""
    happened, *log = failure.splitlines()
    if REFUSAL in log:
        return f"{happened} {REFUSAL} {'; '.join(reasons_in(log[log.index(REFUSAL) + 1 :]))}"
    named = [match[1] or match[3] for line in log if (match := _ERROR.match(line))]
    return f"{happened} {named[-1]}" if named else happened


class Experiment:
    """Runs a plan; the servers live as long as its context.

    An arm that cannot start, or fails, is named in `skipped` with its reason, and the others go on.

    Args:
        plan: what is measured.
        setup: what the arms share.
        logs: folder of the servers' logs.

    Attributes:
        servers: of the arms that run, by name.
        skipped: why arms did not run, or not to the end, by name.
    """

    def __init__(self, plan: Plan, setup: Setup, logs: Path) -> None:
        self._plan, self._setup, self._logs = plan, setup, logs
        self._stack = contextlib.ExitStack()
        self.servers: dict[str, Server] = {}
        self.skipped: dict[str, str] = {}

    def __enter__(self) -> Self:
        """Start all servers, as many at once as there are cores, and wait for them."""
        with self._stack:  # should a start fail, those before it end
            self._start()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with ThreadPoolExecutor() as pool:  # side by side: SGLang takes up to 8 seconds to notice
            list(pool.map(Server.stop, self.servers.values()))
        self._stack.close()

    def results(self, tick: Tick = lambda _arm: None) -> Iterator[list[dict[str, Any]]]:
        """Those of one workload, temperature and concurrency after another."""
        for workload, temperature, concurrency in self._plan.cells:
            asker = Asker(self._setup.pair.target, num_tokens=self._plan.num_tokens, temperature=temperature)
            runs = self._measure(asker, workload, concurrency, tick)
            yield self._results(runs, workload, temperature, concurrency)

    def by_bench_serving(self) -> Iterator[dict[str, Any]]:
        """What SGLang's own client finds: each arm once a workload, temperature and concurrency."""
        for (workload, temperature, concurrency), name in itertools.product(
            self._plan.cells, list(self.servers)
        ):
            try:
                found = bench_serving(
                    self.servers[name],
                    self._setup.pair.target,
                    workload,
                    num_tokens=self._plan.num_tokens,
                    temperature=temperature,
                    concurrency=concurrency,
                    folder=self._logs,
                )
            except MirrorError as error:
                self.skipped[f"{name} by sglang.bench_serving"] = in_one_line(str(error))
                continue
            yield {
                **{"arm": name, "target": self._setup.target, "workload": workload.name},
                **{"temperature": temperature, "concurrency": concurrency},
                **found,
            }

    def _start(self) -> None:
        able = []
        for arm in self._plan.arms:
            if arm.missing:
                self._skip(arm.name, arm.missing)
            else:
                able.append(arm)
        # A start keeps a core busy for half a minute: more at once than there are cores only wait.
        at_once = max(2, len(os.sched_getaffinity(0)))
        for first in range(0, len(able), at_once):
            self._start_some(able[first : first + at_once])

    def _start_some(self, arms: Sequence[Arm]) -> None:
        starting = {}
        for arm in arms:
            log = self._logs / f"{re.sub('[:/]', '-', arm.name)}.log"
            server_ = server(arm, self._setup.pair, self._setup.cores, log)
            try:
                starting[arm] = self._stack.enter_context(server_)
            except ServerError as error:
                self._skip(arm.name, str(error))
        for arm, started in starting.items():
            try:
                started.wait(self._plan.start_timeout_s)
                self.servers[arm.name] = started.wait_for_draft() if arm.has_draft else started
            except ServerError as error:
                started.stop()
                self._skip(arm.name, in_one_line(str(error)))

    def _skip(self, arm: str, reason: str) -> None:
        self.skipped[arm] = reason
        if arm in self.servers:
            self.servers.pop(arm).stop()
        logger.warning("arm %s does not run: %s", arm, reason)

    def _measure(self, asker: Asker, workload: Workload, concurrency: int, tick: Tick) -> ByTask:
        """Every arm through the workload, `repeats` times; an arm that fails is left out, and its runs."""
        tasks = workload.by_task
        runs: ByTask = {task: {name: [] for name in self.servers} for task in tasks}
        repeat = 0
        while self.servers and repeat <= self._plan.repeats:  # 0 is the warm-up
            count = None if repeat else WARM_UP_LAPS * concurrency
            ask = functools.partial(
                run_once, self.servers, asker, concurrency=concurrency, first=repeat, tick=tick
            )
            try:
                found = {task: ask(questions[:count]) for task, questions in tasks.items()}
            except ArmError as error:
                self._skip(error.arm, in_one_line(str(error)))
                for by_arm in runs.values():
                    by_arm.pop(error.arm)
                continue
            for task, once in found.items() if repeat else ():
                for name, run in once.items():
                    runs[task][name].append(run)
            repeat += 1
        return runs

    def _results(
        self, runs: ByTask, workload: Workload, temperature: float, concurrency: int
    ) -> list[dict[str, Any]]:
        """One result an arm; where the workload has several tasks, one for each of these besides."""
        whole = {
            name: [
                Run.joined(repeat) for repeat in zip(*(by_arm[name] for by_arm in runs.values()), strict=True)
            ]
            for name in self.servers
        }
        parts = {workload.name: whole}
        if len(runs) > 1:
            parts |= {f"{workload.name}/{task}": by_arm for task, by_arm in runs.items()}
        return [
            result(
                name,
                by_arm[name],
                by_arm,
                target=self._setup.target,
                workload=part,
                temperature=temperature,
                concurrency=concurrency,
                command=self.servers[name].command_line.replace(f"{ROOT}/", ""),
            )
            for part, by_arm in parts.items()
            for name in by_arm
        ]
