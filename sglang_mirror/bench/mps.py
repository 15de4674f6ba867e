"""`python -m sglang_mirror.bench.mps COMMAND…`: runs it with CUDA's Multi-Process Service, if there is one.

For arms whose target and draft are on one GPU: without the service their kernels take turns. The service is
ours alone, in folders of its own, and ends with the command; what else runs on the GPU does not notice.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from sglang_mirror.bench.server import die_with_parent, end_on_sigterm

CONTROL = "nvidia-cuda-mps-control"
START_S, PROBE_S, STOP_S = 10.0, 60.0, 20.0
# Whether a process gets through to the GPU: a service that starts may still serve nobody.
PROBE = "import torch; torch.zeros(1, device='cuda').item()"
BAD_USAGE = 2


@contextlib.contextmanager
def service() -> Iterator[Mapping[str, str]]:
    """The variables by which processes find the service while it runs; none if it cannot."""
    control = shutil.which(CONTROL)
    if control is None:
        _say(f"there is no {CONTROL} here: processes on one GPU will take turns")
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="mps-") as folder:
        found = {"CUDA_MPS_PIPE_DIRECTORY": folder, "CUDA_MPS_LOG_DIRECTORY": folder}
        environment = {**os.environ, **found}
        daemon = subprocess.Popen(
            [control, "-f"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - one call, of a library that is loaded already
        )
        try:
            problem = _trouble(daemon, Path(folder), environment)
            if problem:
                _say(f"{CONTROL} is of no use here ({problem}): processes on one GPU will take turns")
            yield {} if problem else found
        finally:
            _end(daemon, control, environment)


def _trouble(daemon: subprocess.Popen[bytes], folder: Path, environment: Mapping[str, str]) -> str:
    """Why processes cannot use the service; empty if they can."""
    deadline = time.monotonic() + START_S
    while not (folder / "control").is_socket():
        if daemon.poll() is not None or time.monotonic() > deadline:
            return f"it did not start: status {daemon.poll()}"
        time.sleep(0.05)
    try:
        probe = [sys.executable, "-c", PROBE]
        done = subprocess.run(
            probe, env=environment, capture_output=True, text=True, timeout=PROBE_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"a process that uses it hangs for {PROBE_S:.0f} s"
    return (done.stderr.strip().splitlines() or ["no reason given"])[-1] if done.returncode else ""


def _end(daemon: subprocess.Popen[bytes], control: str, environment: Mapping[str, str]) -> None:
    """Politely, which waits for its clients; then by force."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(
            [control], input=b"quit\n", env=environment, capture_output=True, timeout=STOP_S, check=False
        )
        daemon.wait(STOP_S)
    daemon.kill()
    daemon.wait()


def _say(text: str) -> None:
    sys.stderr.write(f"mps: {text}\n")


def main(command: Sequence[str]) -> int:
    """Run the command; its exit status."""
    if not command:
        _say("give a command to run")
        return BAD_USAGE
    end_on_sigterm()
    with service() as found:
        child = subprocess.Popen(command, env={**os.environ, **found}, preexec_fn=die_with_parent)  # noqa: PLW1509
        try:
            return child.wait()
        finally:
            child.terminate()
            child.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
