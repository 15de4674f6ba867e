"""SGLang as released: the sources of every version we support, read out of its wheel and never imported."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

RELEASES = tuple(f"0.5.{patch}" for patch in range(17, 24))
# Beside other programs' caches: a wheel has 20 to 40 MB and never changes.
CACHE = Path(os.getenv("XDG_CACHE_HOME") or Path.home() / ".cache") / "sglang-mirror" / "wheels"
FETCH_TIMEOUT_S = 300
# The same wheel on every host: only its Python sources are read.
WHEEL = ("--only-binary=:all:", "--python-version=3.11", "--implementation=cp")
PLATFORM = "--platform=manylinux_2_34_x86_64"


class UnavailableError(Exception):
    """A release that cannot be read here, and why."""


class Sources(Protocol):
    """The files of one release by their path in it, `sglang/…`."""

    def read(self, path: str) -> str | None:
        """The text of a file; None if there is none."""

    def paths(self) -> list[str]:
        """Every Python file."""


class Folder:
    """An installed package."""

    def __init__(self, package: Path) -> None:
        self._package = package

    def read(self, path: str) -> str | None:
        file = self._package.parent / path
        return file.read_text(encoding="utf-8") if file.is_file() else None

    def paths(self) -> list[str]:
        return [str(file.relative_to(self._package.parent)) for file in self._package.rglob("*.py")]


class Wheel:
    """A package as it lies in the registry."""

    def __init__(self, file: Path) -> None:
        self._archive = zipfile.ZipFile(file)
        self._paths = [name for name in self._archive.namelist() if name.endswith(".py")]
        self._known = set(self._paths)

    def read(self, path: str) -> str | None:
        return self._archive.read(path).decode("utf-8") if path in self._known else None

    def paths(self) -> list[str]:
        return self._paths


def installed() -> str | None:
    """The version of the SGLang in this environment."""
    try:
        return version("sglang")
    except PackageNotFoundError:
        return None


def checked() -> list[str]:
    """The versions to check: what we support, and what is installed, whatever that is."""
    here = installed()
    return [*RELEASES, *([here] if here and here not in RELEASES else [])]


@cache
def sources(release: str) -> Sources:
    """A release's files; the installed one is not fetched.

    Raises:
        UnavailableError: the registry does not give it.
    """
    if release == installed():
        spec = find_spec("sglang")
        assert spec is not None
        assert spec.origin is not None
        return Folder(Path(spec.origin).parent)
    return Wheel(_wheel(release))


def _wheel(release: str) -> Path:
    found = list(CACHE.glob(f"sglang-{release}-*.whl"))
    if not found:
        _fetch(release)
        found = list(CACHE.glob(f"sglang-{release}-*.whl"))
    return found[0]


def _fetch(release: str) -> None:
    CACHE.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--retries=1", "--timeout=15"]
    command = [*pip, *WHEEL, PLATFORM, f"--dest={CACHE}", f"sglang=={release}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"sglang {release} did not come in {FETCH_TIMEOUT_S} s") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise UnavailableError(f"sglang {release} cannot be fetched: {last}")
