"""Settings that cannot work end with one message that names all of them, before a model is loaded."""

from __future__ import annotations

import http.server
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from sglang_mirror.bench.arms import Pair
from sglang_mirror.bench.pair import embedded_pair
from tests.e2e.fleet import DEADLINE_S, child_environment, flags, mirror_flags

PAIR: Pair = embedded_pair()


def command_line(*arguments: str) -> list[str]:
    return ["--model-path", str(PAIR.target), *flags(*arguments)]


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE_S,
        check=False,
    )


def refusals(lines: list[list[str]]) -> list[str]:
    """What is said of each command line; all must end with status 2. One process, for it imports SGLang."""
    done = run([str(Path(__file__).with_name("parse_arguments.py")), json.dumps(lines)])
    assert done.returncode == 0, done.stderr[-4000:]
    outcomes = json.loads(done.stdout.splitlines()[-1])
    assert [status for status, _ in outcomes] == [2] * len(lines), outcomes
    return [said for _, said in outcomes]


def test_all_reasons_at_once() -> None:
    """The real command: status, message, and no traceback."""
    arguments = [
        *mirror_flags("/nonexistent/draft", exit_layer=99),
        *("--speculative-num-draft-tokens", "9"),
        *("--enable-lora", "--pp-size", "2"),
    ]
    done = run(["-m", "sglang.launch_server", *command_line(*arguments)])
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "mirror cannot start:" in done.stderr
    reasons = [line for line in done.stderr.splitlines() if line.startswith("  - ")]
    expected = {
        "--speculative-draft-model-path '/nonexistent/draft'": "no such model folder",
        "--mirror-exit-layer 99": "has 8 layers; give 1 to 7",
        "--speculative-num-draft-tokens 9": "give 5 or leave it out",
        "--enable-lora True": "serve without --enable-lora",
        "--pp-size 2": "use --pp-size 1",
    }
    for setting, remedy in expected.items():
        assert any(setting in reason and remedy in reason for reason in reasons), (setting, reasons)
    assert len(reasons) == len(expected)


@pytest.fixture
def other_vocabulary(tmp_path: Path) -> Path:
    """A draft whose tokenizer has one token renamed."""
    folder = tmp_path / "draft"
    shutil.copytree(PAIR.draft, folder)
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    token = max(vocabulary, key=vocabulary.get)
    vocabulary["renamed"] = vocabulary.pop(token)
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.fixture
def web_server() -> Iterator[int]:
    """The port of something that speaks HTTP."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.fixture
def stranger(tmp_path: Path) -> Iterator[str]:
    """The endpoint of a ZeroMQ socket that answers nonsense."""
    endpoint = f"ipc://{tmp_path}/stranger"
    stop = threading.Event()

    def answer() -> None:
        with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
            socket.linger = 0
            socket.bind(endpoint)
            while not stop.is_set():
                if socket.poll(100):
                    socket.send_multipart([socket.recv_multipart()[0], b"\xc1 nonsense"])

    thread = threading.Thread(target=answer)
    thread.start()
    yield endpoint
    stop.set()
    thread.join(10)


def test_refusals(tmp_path: Path, other_vocabulary: Path, web_server: int, stranger: str) -> None:
    settings = tmp_path / "mirror.toml"
    settings.write_text("kapa = 4\nroots = 7\n", encoding="utf-8")
    cases = {
        "vocabulary": mirror_flags(other_vocabulary),
        "no draft": mirror_flags(None),
        "open tcp": mirror_flags(None, draft_endpoint="tcp://127.0.0.1:5555"),
        "no keys": mirror_flags(None, draft_endpoint="tcp://127.0.0.1:5555", curve_dir=tmp_path / "none"),
        "scheme": mirror_flags(None, draft_endpoint="udp://127.0.0.1:5555"),
        "file": mirror_flags(PAIR.draft, config=settings),
        "range": mirror_flags(PAIR.draft, kappa=0, root_budget=-1),
        "place": mirror_flags(PAIR.draft, draft_cpus=4096, draft_device="cuda:0", trace="/no/folder/steps"),
        "http": mirror_flags(None, draft_endpoint=f"tcp://127.0.0.1:{web_server}", insecure_tcp=True),
        "stranger": mirror_flags(None, draft_endpoint=stranger),
    }
    said = dict(zip(cases, refusals([command_line(*words) for words in cases.values()]), strict=True))
    expected = {
        "vocabulary": [
            "--speculative-draft-model-path",
            str(other_vocabulary),
            "share the target's tokenizer",
        ],
        "no draft": ["--speculative-draft-model-path is missing", "--mirror-draft-endpoint"],
        "open tcp": ["tcp://127.0.0.1:5555", "sglang-mirror keys", "--mirror-insecure-tcp"],
        "no keys": ["CURVE key file", "is missing"],
        "scheme": ["udp://127.0.0.1:5555", "give ipc://PATH or tcp://HOST:PORT"],
        "file": ["unknown setting 'kapa'", "known are", "roots = 7: expected str"],
        "range": ["--mirror-kappa 0: must be at least 1", "--mirror-root-budget -1: must be at least 0"],
        "place": [
            "--mirror-draft-cpus 4096: cannot be kept to",
            "--mirror-draft-device cuda:0: this host has 0 GPUs",
            "--mirror-trace /no/folder/steps: cannot be written",
        ],
        "http": [f"--mirror-draft-endpoint tcp://127.0.0.1:{web_server}", "not an sglang-mirror draft"],
        "stranger": [f"--mirror-draft-endpoint {stranger}", "is the peer sglang-mirror"],
    }
    for case, words in expected.items():
        for word in words:
            assert word in said[case], (case, said[case])
        assert said[case].count("mirror cannot start") == 1
