"""A real SGLang server as a child process: started, waited for, and gone afterwards with all it started."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import httpx
import psutil

from sglang_mirror.bench.client import http
from sglang_mirror.errors import MirrorError

START_TIMEOUT_S = 180.0
DRAFT_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 10.0
LOG_TAIL_LINES = 25
PORTS, MOST_TRIES = range(20_000, 30_000), 100


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """In a child, before it becomes its program: whatever ends us, a kill too, the kernel tells it to end."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def end_on_sigterm() -> None:
    """From now on SIGTERM unwinds this process, so that what it started is ended before it is."""
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))


class ServerError(MirrorError):
    """A server did not start, or ended; the message has its last lines."""


def free_port() -> int:
    """A TCP port that nobody listens on now.

    None of those that the system gives to outgoing connections: a server takes half a minute until it
    listens, and by then one of them may have been taken.

    Raises:
        ServerError: there is none.
    """
    for port in random.sample(PORTS, MOST_TRIES):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise ServerError(f"no port is free among {MOST_TRIES} from {PORTS.start} to {PORTS.stop - 1}")


def require_free(port: int) -> None:
    """See that nobody listens on a port: SGLang would load its model, and then hang.

    Raises:
        ServerError: somebody does.
    """
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise ServerError(f"port {port} is in use: end what listens there")


def cpu_environment(threads: int = 1) -> dict[str, str]:
    """Variables that hold a process to so many threads and keep it off the network."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {**dict.fromkeys(names, str(threads)), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


class Server:
    """One server: a process group of its own, killed whole when the context ends.

    Args:
        model: the target's folder or name.
        arguments: further flags of `sglang.launch_server`.
        log: where its output goes.
        cpus: the CPU cores that it is held to once it generates; all if empty. To start, it may use all.
        environment: variables added to ours.

    Raises:
        ServerError: from `wait` and `wait_for_draft`, if it ends, or is not as it should be in time.
    """

    def __init__(
        self,
        model: str,
        arguments: Sequence[str],
        *,
        log: Path,
        cpus: Sequence[int] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.port = free_port()
        self.command = [
            *(sys.executable, "-m", "sglang.launch_server", "--model-path", model),
            *("--host", "127.0.0.1", "--port", str(self.port), *arguments),
        ]
        self._log_path, self._cpus = log, tuple(cpus)
        self._environment = {**os.environ, **cpu_environment(), **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def command_line(self) -> str:
        prefix = ["taskset", "-c", ",".join(map(str, self._cpus))] if self._cpus else []
        return shlex.join([*prefix, "python", *self.command[1:]])

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    def start(self) -> Self:
        """Start without waiting.

        Raises:
            ServerError: somebody listens on its port.
        """
        require_free(self.port)
        self._log_path.parent.mkdir(parents=True, exist_ok=True)
        self._log = self._log_path.open("wb")
        self._process = subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=self._environment,
            start_new_session=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - one call, of a library that is loaded already
        )
        return self

    def wait(self, timeout_s: float = START_TIMEOUT_S) -> Self:
        """Wait until it generates; from then on it is held to its cores, and its start is no garbage."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if (status := self.poll()) is not None:
                raise ServerError(f"the server ended with status {status}:\n{self.log_tail()}")
            with contextlib.suppress(httpx.HTTPError):
                if http().get(f"{self.url}/health_generate", timeout=20).status_code == httpx.codes.OK:
                    self._hold()
                    self._freeze()
                    return self
            time.sleep(0.2)
        raise ServerError(f"the server was not healthy after {timeout_s:.0f} s:\n{self.log_tail()}")

    def wait_for_draft(self, timeout_s: float = DRAFT_TIMEOUT_S) -> Self:
        """Wait until its draft is ready as well, if it decodes by mirror: until then it serves plainly."""
        deadline, state = time.monotonic() + timeout_s, "ready"
        while time.monotonic() < deadline:
            try:
                state = self.info().get("mirror", {"draft": "ready"})["draft"]
            except httpx.HTTPError as error:
                raise self._silent(error) from error
            if state == "ready":
                return self
            time.sleep(0.1)
        raise ServerError(f"its draft was {state} after {timeout_s:.0f} s:\n{self.log_tail()}")

    def _hold(self) -> None:
        """Put every thread that has no cores of its own, as the draft's have, on the server's cores."""
        if not self._cpus:
            return
        everything = os.sched_getaffinity(0)
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                for thread in process.threads():
                    if os.sched_getaffinity(thread.id) == everything:
                        os.sched_setaffinity(thread.id, self._cpus)

    def _freeze(self) -> None:
        """Take what its start left behind out of garbage collection: seconds for a collection of it all.

        SGLang does so itself after its warm-up; told to skip that, it often asks before it listens.
        """
        try:
            http().post(f"{self.url}/freeze_gc", timeout=20).raise_for_status()
        except httpx.HTTPError as error:
            raise self._silent(error) from error

    def _silent(self, error: httpx.HTTPError) -> ServerError:
        return ServerError(f"the server does not answer ({error!r}):\n{self.log_tail()}")

    def family(self) -> list[psutil.Process]:
        """Its processes, its draft included; none once it has gone."""
        try:
            main = psutil.Process(self.pid)
            return [main, *main.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def poll(self) -> int | None:
        """Its exit status, or None while it runs."""
        assert self._process is not None, "not started"
        return self._process.poll()

    def wait_for_exit(self, timeout_s: float) -> int:
        """Its exit status, once it has ended by itself."""
        assert self._process is not None, "not started"
        return self._process.wait(timeout_s)

    def log_tail(self) -> str:
        lines = self._log_path.read_text(errors="replace").splitlines()
        return "\n".join(lines[-LOG_TAIL_LINES:])

    def info(self) -> dict[str, Any]:
        """What `/server_info` says."""
        answer: dict[str, Any] = http().get(f"{self.url}/server_info", timeout=20).json()
        return answer

    def kill(self) -> None:
        """End its main process by force, as whoever runs out of memory does; what it started is to notice."""
        assert self._process is not None, "not started"
        self._process.kill()

    def stop(self) -> None:
        """End it: politely, then by force, its whole group."""
        if self._process is None:
            return
        # Its main process takes the others along; whoever is left then is killed with the group.
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_TIMEOUT_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(STOP_TIMEOUT_S)
        if self._log is not None:
            self._log.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
