"""`make serve`: the embedded pair behind a server that stays until it is interrupted."""

from __future__ import annotations

import json
import os
import sys

from sglang_mirror.bench.arms import Cores, mirror
from sglang_mirror.bench.client import payload
from sglang_mirror.bench.demo import say
from sglang_mirror.bench.pair import EMBEDDED, GAMMA, embedded_pair
from sglang_mirror.bench.server import ServerError, cpu_environment, require_free

PORT = 30000


def main() -> None:
    """Say how to try it, then become the server, so that its signals and its end are our own."""
    try:
        require_free(PORT)
    except ServerError as error:
        sys.exit(f"make serve: {error}")
    cores = Cores.one_each()
    pair = embedded_pair()
    arm = mirror(pair, cores, gamma=GAMMA, **EMBEDDED)
    body = json.dumps(
        payload("def main(argv=None):\n    if argv is None:\n        argv = sys.argv[1:]\n", num_tokens=64)
    )
    say(f"starting on port {PORT}; when the log below says that it is ready to roll, try:\n")
    say(f"  curl -s http://127.0.0.1:{PORT}/generate -H 'Content-Type: application/json' -d '{body}'\n")
    command = [sys.executable, "-m", "sglang.launch_server", "--model-path", str(pair.target)]
    command += ["--host", "127.0.0.1", "--port", str(PORT), *pair.flags, *arm.flags]
    os.sched_setaffinity(0, cores.target)
    os.execve(sys.executable, command, {**os.environ, **cpu_environment()})


if __name__ == "__main__":
    main()
