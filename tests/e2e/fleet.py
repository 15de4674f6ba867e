"""Real servers for tests: started once, shared by whoever asks for the same, and gone at the end."""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import psutil

from sglang_mirror.bench.arms import Pair
from sglang_mirror.bench.client import Completion, complete, complete_all, payload
from sglang_mirror.bench.pair import ROOT, embedded_pair, held_out
from sglang_mirror.bench.server import Server
from sglang_mirror.core.growth import WindowShape
from sglang_mirror.draft.launcher import DraftCommand, DraftProcess

T = TypeVar("T")

# MIRROR_TEST_OUT may name another folder, such as one that outlives the machine.
OUT = Path(os.getenv("MIRROR_TEST_OUT") or ROOT / "out")
LOGS = OUT / "test-logs"
MIRROR_TRACE = LOGS / "mirror.jsonl"
GAMMA = 4
# Shared servers keep the prefix cache and cut prompts into small chunks: both must not show in the text.
SERVING = ("--chunked-prefill-size", "128", "--sleep-on-idle", "--skip-server-warmup")
DEADLINE_S = 120.0
# For two ranks or replicas: SGLang wants to be told.
ONE_CORE_EACH = {"SGLANG_CPU_OMP_THREADS_BIND": "0|1"}
ROOTS = ("exit", "draft", "union", "none")
# Settings of a server that waits for every window and branch.
LOCKSTEP: dict[str, Any] = {"lockstep": True, "miss_wait_ms": 5000, "lost_after_ms": 20_000}
# A server whose windows are trees: its name, and topk and nodes of a window.
TREE, TREE_SHAPE = "tree", WindowShape(GAMMA, 3, 8)


def lockstep_trace(roots: str, label: str = "") -> Path:
    """Where the lockstep server of that root source writes its steps."""
    return LOGS / f"{label}lockstep-{roots}.jsonl"


def flags(*extra: str, dtype: str = "float32") -> tuple[str, ...]:
    return (*embedded_pair(dtype).flags, *SERVING, *extra)


def mirror_flags(draft: Path | str | None, **settings: Any) -> tuple[str, ...]:
    """`--mirror-*` flags from settings; a True one is a switch."""
    words = ["--speculative-algorithm", "mirror", "--speculative-num-steps", str(GAMMA)]
    if draft is not None:
        words += ["--speculative-draft-model-path", str(draft)]
    for name, value in settings.items():
        words.append("--mirror-" + name.replace("_", "-"))
        words += [] if value is True else [str(value)]
    return tuple(words)


class Fleet:
    """Every server that tests have started.

    Args:
        pair: what they serve.
        label: put before the names of their logs.
    """

    def __init__(self, pair: Pair, label: str = "") -> None:
        self.pair, self.label = pair, label
        self._servers: dict[str, Server] = {}
        self._families: dict[str, list[psutil.Process]] = {}

    def launch(
        self, name: str, arguments: Sequence[str], *, environment: Mapping[str, str] | None = None
    ) -> Server:
        """Start a server without waiting for it, unless one of that name runs."""
        if name not in self._servers:
            server = Server(
                str(self.pair.target),
                arguments,
                log=LOGS / f"{self.label}{name}.log",
                environment=environment,
            )
            self._servers[name] = server.start()
        return self._servers[name]

    def plain(self) -> Server:
        """Launch plain decoding, step after step as mirror does: overlapped, SGLang penalises a step late."""
        return self.launch("plain", flags("--disable-overlap-schedule"))

    def mirror(self, name: str = "mirror", **settings: Any) -> Server:
        """Launch a server whose draft is the pair's."""
        return self.launch(name, flags(*mirror_flags(self.pair.draft, **settings), "--enable-metrics"))

    def lockstep(self, roots: str) -> Server:
        """Launch a server that waits for every window and branch, so that its hits depend on no clock.

        Args:
            roots: their source; `TREE` is `union` with trees for windows.
        """
        name = f"lockstep-{roots}"
        if name not in self._servers:
            lockstep_trace(roots, self.label).unlink(missing_ok=True)
        settings = {**LOCKSTEP, "trace": lockstep_trace(roots, self.label)}
        if roots == TREE:
            sizes = ["--speculative-eagle-topk", TREE_SHAPE.topk]
            sizes += ["--speculative-num-draft-tokens", TREE_SHAPE.size + 1]
            words = mirror_flags(self.pair.draft, roots="union", **settings)
            return self.launch(name, flags(*words, *map(str, sizes)))
        return self.mirror(name, roots=roots, **settings)

    def stop(self, name: str, *, politely: bool = False) -> list[psutil.Process]:
        """End one server; what is left of its family.

        Killed, its family has to notice by itself. Asked politely it takes 8 seconds: SGLang looks every 5
        whether it was asked.
        """
        server = self._servers.pop(name)
        members = server.family()
        if politely:
            server.stop()
        elif server.poll() is None:
            server.kill()
        _, left = psutil.wait_procs(members, timeout=10)
        server.stop()
        return [process for process in left if process.status() != psutil.STATUS_ZOMBIE]

    def stop_all(self, *, politely: bool = False) -> list[psutil.Process]:
        """As `stop`, of all servers side by side."""
        stop = functools.partial(self.stop, politely=politely)
        with ThreadPoolExecutor() as pool:
            return [process for left in pool.map(stop, list(self._servers)) for process in left]

    def log_tails(self) -> dict[str, str]:
        return {name: server.log_tail() for name, server in self._servers.items()}


def wait_for(condition: Any, timeout_s: float = DEADLINE_S) -> None:
    """Wait until `condition()` is true.

    Raises:
        AssertionError: it is not in time.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:.0f} s"
        time.sleep(0.1)


def with_draft(server: Server) -> Server:
    """The server, once it generates and has its draft."""
    return server.wait().wait_for_draft()


def report(server: Server) -> dict[str, Any]:
    """The `mirror` object of `/server_info`."""
    found: dict[str, Any] = server.info()["mirror"]
    return found


def both(servers: Sequence[Server], ask: Callable[[Server], T]) -> list[T]:
    """What each server answers, asked side by side."""
    with ThreadPoolExecutor(len(servers)) as pool:
        return list(pool.map(ask, servers))


def generate(server: Server, prompt: str, num_tokens: int = 48, **sampling: Any) -> Completion:
    return complete(server.url, payload(prompt, num_tokens=num_tokens, **sampling))


def generate_all(
    server: Server, prompts: Sequence[str], num_tokens: int = 48, *, concurrency: int = 1, **sampling: Any
) -> list[Completion]:
    bodies = [payload(prompt, num_tokens=num_tokens, **sampling) for prompt in prompts]
    return complete_all(server.url, bodies, concurrency=concurrency)


def texts(answers: Sequence[Completion]) -> list[str]:
    return [answer.text for answer in answers]


def prompts(count: int, *, long: bool = False) -> list[str]:
    return [prompt.text for prompt in held_out(count, long=long)]


@contextlib.contextmanager
def draft_at(endpoint: str, pair: Pair, **options: Any) -> Iterator[DraftProcess]:
    """A draft process of our own at an endpoint.

    The kernel ends it with the thread that started it, so a thread of its own keeps it.
    """
    process = DraftProcess(DraftCommand(model=str(pair.draft), endpoint=endpoint, **options))
    with ThreadPoolExecutor(1) as keeper:
        keeper.submit(process.start).result()
        try:
            yield process
        finally:
            process.stop(5.0)


def child_environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
