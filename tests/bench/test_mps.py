"""A command with CUDA's Multi-Process Service: found, told of, ended. A script stands for the service."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

RUN = [sys.executable, "-m", "sglang_mirror.bench.mps"]
ASK = [sys.executable, "-c", "import os; print(os.environ.get('CUDA_MPS_PIPE_DIRECTORY', 'none'))"]
# As the service does: in the foreground until another of it is told to quit.
SERVICE = """#!/bin/sh
cd "$CUDA_MPS_PIPE_DIRECTORY"
if [ "$1" = -f ]; then echo $$ > {pid}; {start}
else read word; [ "$word" = quit ] && kill "$(cat {pid})"; fi
"""
# Its control is a socket.
LISTENS = "from socket import *; at = socket(AF_UNIX, SOCK_SEQPACKET); at.bind('control'); at.listen()"
STARTS = f'exec {sys.executable} -c "{LISTENS}; import time; time.sleep(60)"'


def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, start: str, reaches_gpu: bool) -> Path:
    """Puts a service on the path; the file that gets its process id."""
    tools = tmp_path / "bin"
    tools.mkdir()
    pid = tmp_path / "pid"
    script = tools / "nvidia-cuda-mps-control"
    script.write_text(SERVICE.format(start=start, pid=pid), encoding="utf-8")
    script.chmod(0o755)
    # What stands for torch: a process that asks for the GPU comes through or not.
    (tmp_path / "torch.py").write_text(
        "class zeros:\n    def __init__(self, *_, device): pass\n    def item(self): return 0\n"
        if reaches_gpu
        else "raise RuntimeError('no way to the GPU')\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    return pid


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*RUN, *command], capture_output=True, text=True, timeout=60, check=False)


def gone(pid: Path) -> bool:
    deadline = time.monotonic() + 10
    while psutil.pid_exists(int(pid.read_text())):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_the_command_finds_the_service_which_ends_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = prepared(tmp_path, monkeypatch, start=STARTS, reaches_gpu=True)
    done = run(*ASK)
    assert done.returncode == 0
    assert "mps-" in done.stdout
    assert not done.stderr
    assert not Path(done.stdout.strip()).exists()
    assert gone(pid)


@pytest.mark.parametrize(
    ("start", "reaches_gpu", "said"),
    [
        ("exit 3", True, "it did not start: status 3"),
        (STARTS, False, "no way to the GPU"),
    ],
)
def test_a_service_of_no_use_is_named_and_done_without(
    start: str, reaches_gpu: bool, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = prepared(tmp_path, monkeypatch, start=start, reaches_gpu=reaches_gpu)
    done = run(*ASK)
    assert (done.returncode, done.stdout.strip()) == (0, "none")
    assert said in done.stderr
    assert gone(pid)


def test_without_a_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    done = run(*ASK)
    assert (done.returncode, done.stdout.strip()) == (0, "none")
    assert "there is no nvidia-cuda-mps-control here" in done.stderr


def test_the_commands_status_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert run(sys.executable, "-c", "import sys; sys.exit(7)").returncode == 7
    assert run().returncode == 2


def test_told_to_end_it_ends_the_command_and_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = prepared(tmp_path, monkeypatch, start=STARTS, reaches_gpu=True)
    theirs = tmp_path / "theirs"
    code = f"import os, time; open({str(theirs)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    with subprocess.Popen([*RUN, sys.executable, "-c", code]) as process:
        deadline = time.monotonic() + 30
        while not (theirs.exists() and theirs.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM
    assert gone(theirs)
    assert gone(pid)
