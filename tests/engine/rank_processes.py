"""Real ranks: processes that SGLang's own group joins, over gloo."""

from __future__ import annotations

import multiprocessing
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

DEADLINE_S = 120.0

# Called in each process with its group and the arguments; what it returns must be picklable.
Work = Callable[..., Any]


class RankError(AssertionError):
    """What was raised in a rank, as text."""


def _serve(rank: int, size: int, meeting: str, tasks: Any, answers: Any) -> None:
    from sglang.srt.distributed.parallel_state import (  # noqa: PLC0415 - in the ranks alone
        get_world_group,
        init_distributed_environment,
    )

    init_distributed_environment(
        world_size=size, rank=rank, distributed_init_method=meeting, local_rank=0, backend="gloo"
    )
    while True:
        work, args = tasks.get()
        try:
            answers.put((rank, work(get_world_group(), *args)))
        except BaseException:  # the test's process is told, and ends this one
            answers.put((rank, RankError(traceback.format_exc())))
            raise


class Ranks:
    """Processes that wait for work; those of `running`.

    Args:
        tasks: a queue for each.
        answers: theirs.
    """

    def __init__(self, tasks: list[Any], answers: Any) -> None:
        self._tasks, self._answers = tasks, answers

    def run(self, work: Work, *args: Any) -> list[Any]:
        """What each rank's call of `work(group, *args)` gives, in their order.

        Raises:
            RankError: one failed; the others may wait for it, so no more work can be done.
            queue.Empty: one did not answer in time.
        """
        for tasks in self._tasks:
            tasks.put((work, args))
        found = {}
        for _ in self._tasks:
            rank, answer = self._answers.get(timeout=DEADLINE_S)
            if isinstance(answer, RankError):
                raise answer
            found[rank] = answer
        return [found[rank] for rank in sorted(found)]


@contextmanager
def running(size: int) -> Iterator[Ranks]:
    """So many ranks, gone at the end."""
    context = multiprocessing.get_context("spawn")
    answers, tasks = context.Queue(), [context.Queue() for _ in range(size)]
    with tempfile.TemporaryDirectory() as folder:
        meeting = f"file://{Path(folder) / 'meeting'}"
        processes = [
            context.Process(target=_serve, args=(rank, size, meeting, tasks[rank], answers), daemon=True)
            for rank in range(size)
        ]
        for process in processes:
            process.start()
        try:
            yield Ranks(tasks, answers)
        finally:
            for process in processes:
                process.kill()
                process.join()
