"""The real process: how it starts, serves, refuses and ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sglang_mirror.draft.launcher import DraftCommand, DraftProcess
from sglang_mirror.protocol.channel import TargetChannel
from sglang_mirror.protocol.endpoint import private_ipc_endpoint
from sglang_mirror.protocol.messages import (
    Beat,
    Branches,
    Commit,
    Committed,
    Failed,
    FreshWindow,
    Hello,
    Message,
    Open,
    Ready,
    Refused,
    Stamp,
)
from sglang_mirror.protocol.vocabulary import vocabulary_fingerprint
from tests.draft.draft_playing import hello
from tests.draft.tiny import make

START_S = 60.0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make("qwen3", tmp_path_factory.mktemp("model")))


Start = Callable[..., tuple[DraftProcess, str]]


@pytest.fixture
def start(tmp_path: Path, model: str) -> Iterator[Start]:
    started = []

    def begin(**options: object) -> tuple[DraftProcess, str]:
        endpoint = f"ipc://{tmp_path}/d{len(started)}"
        process = DraftProcess(DraftCommand(model=model, endpoint=endpoint, **options))  # type: ignore[arg-type]
        started.append(process)
        process.start()
        return process, endpoint

    yield begin
    for process in started:
        process.stop(5.0)


def receive(channel: TargetChannel, *kinds: type[Message], timeout_s: float = 10.0) -> Message:
    """The next message that is no beat, of one of the kinds."""
    end_s = time.monotonic() + timeout_s
    while time.monotonic() < end_s:
        message = channel.receive(100)
        if message is not None and (Beat in kinds or not isinstance(message, Beat)):
            assert isinstance(message, kinds), message
            return message
    raise AssertionError(f"no {kinds} came")


def greet(channel: TargetChannel, said: Hello) -> Message:
    end_s = time.monotonic() + START_S
    while not channel.send(said):
        assert time.monotonic() < end_s
        time.sleep(0.05)
    return receive(channel, Ready, Refused, timeout_s=START_S)


def wait_for(condition: Callable[[], bool], timeout_s: float) -> None:
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.02)


def exists(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_serves_and_ends_cleanly(start: Start, model: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    process, endpoint = start(trace=str(trace), cpus="0")
    with TargetChannel(endpoint) as channel:
        ready = greet(channel, hello(vocabulary=vocabulary_fingerprint(model), beat_ms=50))
        assert isinstance(ready, Ready)
        assert ready.pid == process.pid
        channel.send(Open(Stamp(1, 0, 5), "r", (5, 6, 7, 8, 9), True))
        window = receive(channel, FreshWindow)
        assert isinstance(window, FreshWindow)
        assert len(window.tokens) == 3
        branches = []
        while True:
            message = receive(channel, Branches)
            assert isinstance(message, Branches)
            branches += message.branches
            if message.phase == 1:
                break
        hit = branches[0]
        tokens = (*window.tokens[: hit.node], hit.token)
        channel.send(Commit((Committed(Stamp(1, 0, 5 + len(tokens)), tokens, len(hit.tokens)),)))
        receive(channel, Branches)
        channel.send(Commit((Committed(Stamp(1, 0, 99), (1,), 3),)))
        while not isinstance(receive(channel, Branches, Failed), Failed):
            pass
        assert isinstance(receive(channel, Beat), Beat)
        # Nonsense is ignored; the requests of others and the process go on.
        channel._socket.send(b"\xc1 nonsense")
        channel.send(Open(Stamp(2, 0, 2), "s", (1, 2), True))
        receive(channel, FreshWindow)
        assert Path(endpoint.removeprefix("ipc://")).stat().st_mode & 0o077 == 0
        assert process._process is not None
        process._process.send_signal(signal.SIGTERM)
        assert process._process.wait(10) == 0
    assert '"rollout_rows"' in trace.read_text()


def test_refuses_another_vocabulary(start: Start) -> None:
    _, endpoint = start(backend="scripted")
    with TargetChannel(endpoint) as channel:
        answer = greet(channel, hello(vocabulary="another", topk=9))
        assert isinstance(answer, Refused)
        assert len(answer.reasons) == 2
        assert "another" in answer.reasons[0]
        assert isinstance(greet(channel, hello(vocabulary=answer.reasons[0].split(" is ")[2][:32])), Ready)


def test_dies_with_its_parent(model: str) -> None:
    """And leaves nothing behind where it was reached, which the parent did not live to remove."""
    endpoint = private_ipc_endpoint()
    folder = Path(endpoint.removeprefix("ipc://")).parent
    script = textwrap.dedent(f"""
        import sys, time
        from sglang_mirror.draft.launcher import DraftCommand, DraftProcess
        command = DraftCommand(model={model!r}, endpoint={endpoint!r}, backend="scripted")
        process = DraftProcess(command)
        process.start()
        print(process.pid, flush=True)
        time.sleep(60)
    """)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        try:
            wait_for((folder / "draft").exists, START_S)
            parent.kill()
            wait_for(lambda: not exists(pid), 10.0)
            assert not folder.exists()
        finally:
            if exists(pid):
                os.kill(pid, signal.SIGKILL)


def test_its_variables_replace_ours(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARE", "75")
    process, _ = start(backend="scripted", environment={"SHARE": "25"})
    assert "SHARE=25" in Path(f"/proc/{process.pid}/environ").read_text(encoding="utf-8").split("\0")


def test_outlives_the_thread_that_started_it(start: Start, model: str) -> None:
    import threading  # noqa: PLC0415

    found: list[tuple[DraftProcess, str]] = []
    thread = threading.Thread(target=lambda: found.append(start(backend="scripted")))
    thread.start()
    thread.join()
    with TargetChannel(found[0][1]) as channel:
        assert isinstance(greet(channel, hello(vocabulary=vocabulary_fingerprint(model))), Ready)
        assert found[0][0].alive()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"model": "/nowhere/at/all"}, "/nowhere/at/all"),
        ({"backend": "abacus"}, "--backend abacus: unknown; choose one of"),
        ({"backend": "scripted:speed=3"}, "give NAME=NUMBER of"),
        ({"endpoint": "tcp://127.0.0.1:1"}, "CURVE keys"),
        ({"endpoint": "ipc:///nowhere/at/all", "backend": "scripted"}, "cannot be bound"),
        ({"backend": "scripted", "threads": "-1"}, "--threads -1: give 1 or more"),
        ({"backend": "scripted", "spin_ms": "-1"}, "--spin-ms -1: give 0 or more"),
        ({"cpus": "zero"}, "--cpus zero: give CPU numbers"),
        ({"cpus": "9999"}, "--cpus 9999: cannot be kept to"),
        ({"memory_gb": 2.0}, "--memory-gb 2 --device cpu: only a GPU's memory can be bounded"),
        ({"memory_gb": -1.0}, "--memory-gb -1: give more than 0"),
        ({"memory_gb": 2.0, "device": "cuda:99"}, "--memory-gb 2 --device cuda:99: PyTorch finds"),
        ({"device": "cuda:99"}, "--device cuda:99: PyTorch finds"),
        ({"backend": "scripted", "trace": "/nowhere/t"}, "--trace /nowhere/t: cannot be written"),
    ],
)
def test_settings_that_cannot_work(options: dict[str, Any], said: str, model: str, tmp_path: Path) -> None:
    settings = {"model": model, "endpoint": f"ipc://{tmp_path}/d", **options}
    spin_ms = settings.pop("spin_ms", None)
    command = DraftCommand(**settings).arguments(os.getpid())
    command += ["--spin-ms", spin_ms] if spin_ms else []
    done = subprocess.run(command, capture_output=True, text=True, timeout=START_S, check=False)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_load_that_fails_may_do_better_later(tmp_path: Path) -> None:
    folder = make("llama", tmp_path / "model")
    (folder / "model.safetensors").unlink()
    command = DraftCommand(model=str(folder), endpoint=f"ipc://{tmp_path}/d").arguments(os.getpid())
    done = subprocess.run(command, capture_output=True, text=True, timeout=START_S, check=False)
    assert done.returncode == 1
    assert "cannot be loaded" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_draft_that_fails_later_may_be_started_again(start: Start, model: str) -> None:
    process, endpoint = start(backend="scripted:fail_after=2")
    with TargetChannel(endpoint) as channel:
        greet(channel, hello(vocabulary=vocabulary_fingerprint(model)))
        for generation in range(4):
            channel.send(Open(Stamp(1, generation, 2), "r", (1, 2), True))
            time.sleep(0.1)
        assert process._process is not None
        assert process._process.wait(10) == 1
        assert not process.gave_up()


def test_an_endpoint_in_use_is_not_taken_over(start: Start, model: str) -> None:
    _, endpoint = start(backend="scripted")
    with TargetChannel(endpoint) as channel:
        greet(channel, hello(vocabulary=vocabulary_fingerprint(model)))
        command = DraftCommand(model=model, endpoint=endpoint, backend="scripted").arguments(os.getpid())
        done = subprocess.run(command, capture_output=True, text=True, timeout=START_S, check=False)
        assert done.returncode == 1
        assert "another process serves it" in done.stderr
        channel.send(Open(Stamp(1, 0, 2), "r", (1, 2), True))
        receive(channel, FreshWindow)


def test_no_sglang_is_needed() -> None:
    code = "import sys; import sglang_mirror.draft.command, sglang_mirror.draft.backends.load; print('sglang' in sys.modules)"  # fmt: skip  # noqa: E501
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
