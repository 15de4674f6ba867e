"""Where figures come from: code, versions, machine, command."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

PACKAGES = ("sglang-mirror", "sglang", "torch", "transformers", "pyzmq", "msgspec")


def provenance() -> dict[str, Any]:
    """Everything a reader needs to run the same again. The command has no path of this machine."""
    return {
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "command": shlex.join([*_program(), *map(_anywhere, sys.argv[1:])]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "gpu": _gpu(),
        # Whether processes compute on one GPU at the same time, or take turns.
        "mps": "CUDA_MPS_PIPE_DIRECTORY" in os.environ,
    }


def same_code(content: dict[str, Any]) -> bool:
    """Whether the figures are known to come from the code that runs now."""
    then, now = content["provenance"]["commit"], _git("rev-parse", "HEAD")
    return then is not None and then == now


def origin(content: dict[str, Any]) -> str:
    """Where the figures come from, in one line."""
    where = content["provenance"]
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    changed = " with uncommitted changes" if where["uncommitted"] else ""
    gpu = f"{where['gpu']}, " if where.get("gpu") else ""
    gpu += "shared by the Multi-Process Service, " if where.get("mps") else ""
    return (
        f"`{where['command']}` at {(where['commit'] or 'no commit')[:10]}{changed}, {where['date']}; "
        f"{gpu}{where['cores']} cores of {where['cpu']}, Python {where['python']}, {versions}."
    )


def origin_if_any(content: dict[str, Any]) -> str:
    """The same of a file that may be older than its program's word on where it ran."""
    return origin(content) if "provenance" in content else "No provenance recorded."


def _program() -> list[str]:
    specification = getattr(sys.modules["__main__"], "__spec__", None)
    return ["python", "-m", specification.name] if specification else [Path(sys.argv[0]).name]


def _anywhere(argument: str) -> str:
    """An argument without the folders of this machine."""
    return Path(argument).name if argument.startswith("/") else argument


def _git(*arguments: str) -> str | None:
    return _answer("git", "-C", str(Path(__file__).resolve().parent), *arguments)


def _gpu() -> str | None:
    """The first GPU and its driver; None on a host without one."""
    found = _answer("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    return found.splitlines()[0].replace(", ", ", driver ") if found else None


def _answer(*command: str) -> str | None:
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
