"""The rooms and their one-way arrows, read from the imports; and what the plugin may not do."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = (
    ROOT / "sglang_mirror",
    ROOT / "patches/sglang_mirror_patches",
    ROOT / "kernels/sglang_mirror_kernels",
)
OURS = {package.name for package in PACKAGES}
LEAVES = {"sglang_mirror", "config", "errors"}  # the bare package holds the version
MOST_LINES = 300

# Room: what it may import of ours besides itself and the leaves. `draft.launcher` is one module of a room.
ARROWS: dict[str, set[str]] = {
    "config": set(),
    "errors": set(),
    "core": set(),
    "protocol": {"core"},
    "kernels": set(),
    "upscale": set(),
    "draft": {"core", "protocol", "kernels", "upscale"},
    "engine": {"core", "protocol", "kernels", "draft.launcher"},
    "platform": set(),
    "patches": {"engine", "upscale"},
    "plugin": {"engine", "platform", "patches"},
    "bench": {"core", "upscale"},
    "train": set(),
    "cli": {"draft", "protocol", "bench", "train"},
}
STANDALONE = {"core", "train", "kernels", "errors", "upscale"}  # not even the leaves, `errors` excepted
# SGLang's names: the engine's in one module, and its registration, which every process loads.
SGLANG_ROOMS = {"platform", "patches"}
SGLANG_MODULES = {"engine/host.py", "engine/algorithm.py"}
CORE_MAY_IMPORT = {"__future__", "math", "collections", "dataclasses", "typing"}


def sources() -> list[Path]:
    return sorted(path for package in PACKAGES for path in package.rglob("*.py"))


def room_of(path: Path) -> str:
    package = next(package for package in PACKAGES if path.is_relative_to(package))
    if package.name != "sglang_mirror":
        return package.name.removeprefix("sglang_mirror_")
    first = path.relative_to(package).parts[0].removesuffix(".py")
    return "sglang_mirror" if first == "__init__" else first


def imports(path: Path) -> Iterator[str]:
    """Dotted names of every import, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def destination(name: str) -> str:
    """The room that an import of ours goes to, as ARROWS spells it."""
    parts = name.split(".")
    if parts[0] != "sglang_mirror":
        return parts[0].removeprefix("sglang_mirror_")
    if parts[1:3] == ["draft", "launcher"]:
        return "draft.launcher"
    known = len(parts) > 1 and (parts[1] in ARROWS)
    return parts[1] if known else "sglang_mirror"


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows(path: Path) -> None:
    room = room_of(path)
    if room == "sglang_mirror":
        return
    assert room in ARROWS, f"a room that docs/design.md does not know: {room}"
    allowed = {room, *ARROWS[room], *({"errors"} if room in STANDALONE else LEAVES)}
    for name in imports(path):
        if name.split(".")[0] in OURS:
            target = destination(name)
            inside = target == "draft.launcher" and room == "draft"
            assert target in allowed or inside, f"{room} imports {name}"


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_sglang_is_imported_in_its_rooms_only(path: Path) -> None:
    names = {name.split(".")[0] for name in imports(path)}
    inside = "/".join(path.parts[-2:])
    if room_of(path) not in SGLANG_ROOMS and inside not in SGLANG_MODULES:
        assert not names & {"sglang", "sgl_kernel"}


def test_core_is_standard_library_only() -> None:
    for path in (ROOT / "sglang_mirror/core").glob("*.py"):
        for name in imports(path):
            assert name.split(".")[0] in CORE_MAY_IMPORT or name.startswith("sglang_mirror.core"), name


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_print(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        assert not (isinstance(node, ast.Name) and node.id == "print"), f"line {node.lineno}"


def test_files_are_short() -> None:
    files = [*sources(), *(ROOT / "tests").rglob("*.py"), *(ROOT / "examples").rglob("*.py")]
    lengths = {path.relative_to(ROOT): len(path.read_text("utf-8").splitlines()) for path in files}
    assert {path: length for path, length in lengths.items() if length > MOST_LINES} == {}


def python(code: str, cwd: Path = ROOT) -> str:
    """What a fresh interpreter says."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_nothing_of_ours_is_called_kernels() -> None:
    """SGLang imports a package of that name; with the repository root on the path, ours must not hide it."""
    for folder in ("kernels", "patches"):
        assert not (ROOT / folder / "__init__.py").exists()
    found = python("import importlib.util as u; print(u.find_spec('kernels').origin)")
    assert not Path(found.strip()).is_relative_to(ROOT / "kernels")


def test_plugin_imports_nothing_before_it_is_called() -> None:
    loaded = python("import sys, sglang_mirror.plugin; print([m for m in sys.modules if m.count('.') < 1])")
    assert not {"torch", "sglang", "zmq", "transformers"} & set(ast.literal_eval(loaded))


def test_plugin_is_inert_when_not_asked_for() -> None:
    """Loaded as every SGLang process loads it: no thread, process or socket; SGLang's settings unchanged."""
    code = """
import os, threading, psutil
from sglang.srt.plugins import load_plugins
import sglang.srt.server_args, sglang.srt.speculative.spec_info, zmq
def state():
    me = psutil.Process()
    return threading.active_count(), len(me.children()), len(me.net_connections(kind="all"))
before, environment = state(), dict(os.environ)
load_plugins()
from sglang.srt.speculative.spec_info import SpeculativeAlgorithm
assert SpeculativeAlgorithm.from_string("MIRROR") is not None, "the plugin is not loaded"
args = sglang.srt.server_args.prepare_server_args(["--model-path", "/nowhere", "--device", "cpu"])
assert args.speculative_algorithm is None and not args.disable_overlap_schedule
assert state() == before, (before, state())
assert {k for k in os.environ if "MIRROR" in k} == {k for k in environment if "MIRROR" in k}
print("inert")
"""
    assert python(code).splitlines()[-1] == "inert"
