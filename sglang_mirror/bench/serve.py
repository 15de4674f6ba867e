"""`make serve`: the embedded pair behind a server that stays until it is interrupted."""

from __future__ import annotations

import json
import os
import sys

from sglang_mirror.bench.arms import CPU, Cores, mirror
from sglang_mirror.bench.client import payload
from sglang_mirror.bench.demo import GAMMA, PAIR, say
from sglang_mirror.bench.server import cpu_environment

PORT = 30000


def main() -> None:
    """Say how to try it, then become the server, so that its signals and its end are our own."""
    cores = Cores.one_each()
    arm = mirror(PAIR, cores, gamma=GAMMA)
    body = """{"text": "def read_lines(path):\\n", "sampling_params": {"max_new_tokens": 64, "temperature": 0}}"""
    say(f"starting on port {PORT}; when it is ready, try:\n")
    say(f"  curl -s http://127.0.0.1:{PORT}/generate -H 'Content-Type: application/json' -d '{body}'\n")
    command = [sys.executable, "-m", "sglang.launch_server", "--model-path", str(PAIR.target)]
    command += ["--host", "127.0.0.1", "--port", str(PORT), "--dtype", PAIR.dtype, *CPU, *arm.flags]
    os.sched_setaffinity(0, cores.target)
    os.execve(sys.executable, command, {**os.environ, **cpu_environment()})


if __name__ == "__main__":
    main()
