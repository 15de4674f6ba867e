"""Starts a draft process and keeps it: standard library only, for the server that it drafts for."""

from __future__ import annotations

import collections
import contextlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from sglang_mirror.errors import DraftError, reasons_in

# The draft's exit status for settings that cannot work: starting it again would end the same way.
BAD_SETTINGS = 2
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 30.0
# A process that has lived so long before it ended has earned a quick restart.
HEALTHY_AFTER_S = 30.0
WORDS_KEPT = 20


def cpu_problems(option: str, text: str) -> list[str]:
    """Why a process cannot be kept to these CPUs, such as 1, 0-3 or 2,5; empty if it can.

    Args:
        option: that they were given by.
        text: as it was given.
    """
    if not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", text):
        return [f"{option} {text}: give CPU numbers such as 1, 0-3 or 2,5"]
    with ThreadPoolExecutor(1) as apart:  # it is a thread's own, and ends with it
        error = apart.submit(lambda: os.sched_setaffinity(0, cpus_of(text))).exception()
    if error is None:
        return []
    return [f"{option} {text}: cannot be kept to ({error}); this machine has {os.cpu_count()}"]


def trace_problems(option: str, path: Path | None) -> list[str]:
    """Why a trace cannot be written there; empty if it can, or is not asked for.

    Args:
        option: that it was given by.
        path: of its file.
    """
    if path is None or (os.access(path if path.exists() else path.parent, os.W_OK) and not path.is_dir()):
        return []
    return [
        f"{option} {path}: cannot be written; name a file in a folder that exists and is yours to write in"
    ]


def cpus_of(text: str) -> set[int]:
    """The numbers in a list of which `cpu_problems` has nothing to say."""
    cpus: set[int] = set()
    for part in text.split(","):
        low, _, high = part.partition("-")
        cpus.update(range(int(low), int(high or low) + 1))
    return cpus


@dataclass(frozen=True, slots=True)
class DraftCommand:
    """The options of one draft process; see `python -m sglang_mirror.draft --help`."""

    model: str
    endpoint: str
    device: str = "cpu"
    backend: str = "torch"
    dtype: str = "auto"
    memory_gb: float | None = None
    threads: int = 1
    cpus: str | None = None
    trace: str | None = None
    curve_dir: str | None = None
    insecure_tcp: bool = False
    streamed_branches: bool = False  # even where the device alone would not have it
    environment: Mapping[str, str] = field(default_factory=dict)  # variables added to ours

    def arguments(self, parent_pid: int) -> list[str]:
        """The command line, for a process that ends with `parent_pid`."""
        options = {
            "--model": self.model,
            "--endpoint": self.endpoint,
            "--device": self.device,
            "--backend": self.backend,
            "--dtype": self.dtype,
            "--memory-gb": None if self.memory_gb is None else str(self.memory_gb),
            "--threads": str(self.threads),
            "--cpus": self.cpus,
            "--trace": self.trace,
            "--curve-dir": self.curve_dir,
            "--parent-pid": str(parent_pid),
        }
        command = [sys.executable, "-m", "sglang_mirror.draft"]
        for option, value in options.items():
            if value is not None:
                command += [option, value]
        switches = {"--insecure-tcp": self.insecure_tcp, "--streamed-branches": self.streamed_branches}
        return command + [switch for switch, on in switches.items() if on]


def restart_pause_s(num_failures: int) -> float:
    """Seconds to wait before the next start, after so many short lives in a row (1 or more)."""
    return min(FIRST_PAUSE_S * 2.0 ** min(num_failures - 1, 60), LONGEST_PAUSE_S)


class DraftProcess:
    """One draft process, started again when it ends. Not thread-safe: one thread owns it.

    The process watches this one and ends with it, however this one ends.

    Attributes:
        num_failures: short lives in a row.
    """

    def __init__(self, command: DraftCommand) -> None:
        self._command = command
        self._process: subprocess.Popen[str] | None = None
        self._words: collections.deque[str] = collections.deque(maxlen=WORDS_KEPT)
        self._started_s = 0.0
        self._due_s: float | None = None
        self.num_failures = 0

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self, now_s: float = 0.0) -> None:
        """Start it; what it writes goes to our standard error.

        Raises:
            DraftError: the operating system refuses.
        """
        threads = str(self._command.threads)
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        environment.update(self._command.environment)
        self._started_s, self._due_s = now_s, None
        try:
            self._process = subprocess.Popen(
                self._command.arguments(os.getpid()),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                env=environment,
            )
        except OSError as error:
            raise DraftError(f"the draft process cannot be started: {error}") from error
        assert self._process.stderr is not None
        try:
            threading.Thread(target=self._pass_on, args=(self._process.stderr,), daemon=True).start()
        except RuntimeError as error:  # with nobody to read what it writes it would stand still
            self._process.kill()
            raise DraftError(f"no thread can be started to listen to the draft process: {error}") from error

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def gave_up(self) -> bool:
        """Whether it ended because its settings cannot work."""
        return self._process is not None and self._process.poll() == BAD_SETTINGS

    def last_words(self) -> str:
        """The last line it wrote, or the list that ends there: the reason when it gave up."""
        words = list(self._words)
        listed = reasons_in(reversed(words))
        return "; ".join(reversed(listed or words[-1:]))

    def is_due(self, now_s: float) -> bool:
        """Whether it has ended and its pause is over; the pause doubles with each short life."""
        if self.alive():
            return False
        if self._due_s is None:
            lived_long = now_s - self._started_s > HEALTHY_AFTER_S
            self.num_failures = 1 if lived_long else self.num_failures + 1
            self._due_s = now_s + restart_pause_s(self.num_failures)
        return now_s >= self._due_s

    def stop(self, timeout_s: float) -> None:
        """End it: politely, after `timeout_s` seconds by force. Safe to call when it has ended."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(timeout_s)

    def _pass_on(self, stream: IO[str]) -> None:
        with contextlib.suppress(ValueError, OSError):
            for line in stream:
                self._words.append(line.rstrip())
                sys.stderr.write(line)
