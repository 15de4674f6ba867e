"""Finds the Python sources that the pair is trained on, and splits off the held-out ones.

Two origins: CPython's library as installed with the running interpreter, and a fixed list of installed
packages whose metadata names a permissive licence. Held-out files come from CPython's library only, chosen by
a hash of their path.
"""

from __future__ import annotations

import hashlib
import logging
import platform
import re
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

logger = logging.getLogger(__name__)

# fmt: off
PACKAGES = (
    "aiohttp", "anyio", "attrs", "click", "Cython", "datasets", "decorator", "dill", "fastapi",
    "filelock", "fsspec", "httpcore", "httpx", "huggingface_hub", "ipython", "jedi", "Jinja2",
    "jsonschema", "lark", "mpmath", "networkx", "numba", "numpy", "packaging", "pandas", "parso", "pip",
    "prompt_toolkit", "psutil", "pydantic", "Pygments", "python-dateutil", "pyzmq", "requests", "rich",
    "scipy", "setuptools", "sglang", "starlette", "sympy", "timm", "tqdm", "traitlets", "transformers",
    "typer", "urllib3", "uvicorn", "wheel",
)
# fmt: on
PERMISSIVE = re.compile(r"\b(MIT|BSD|Apache|PSF|Python Software Foundation)\b", re.IGNORECASE)
RESTRICTIVE = re.compile(r"GPL|MPL|Mozilla|Proprietary|CDDL|EPL|CNRI|CC-BY|BSL", re.IGNORECASE)
# fmt: off
SKIPPED_FOLDERS = frozenset({
    "test", "tests", "testing", "idle_test", "encodings", "pydoc_data", "site-packages", "_bundled",
    "_vendor", "vendor", "vendored", "_vendored", "externals", "third_party", "3rdparty", "benchmarks",
    "_distutils", "turtledemo", "__pycache__",
})
# fmt: on
MAX_FILE_BYTES = 150_000
MAX_PACKAGE_BYTES = 4_000_000
HELDOUT_PERCENT = 16
SHARED_LINES = 5  # this many consecutive lines in common with a held-out file
SHARED_RUNS = 3  # this often, and a training file is dropped as a copy


@dataclass(frozen=True, slots=True)
class Source:
    """One file: its name inside its package, where it came from, and its text."""

    name: str
    package: str
    version: str
    licence: str
    text: str

    @property
    def heldout(self) -> bool:
        """True where the file must not be trained on."""
        return is_heldout(self.name)


def is_heldout(name: str) -> bool:
    """Whether the file `name` ("Lib/argparse.py") is held out: a rule on the path alone."""
    return name.startswith("Lib/") and digest(name) % 100 < HELDOUT_PERCENT


def digest(text: str) -> int:
    """A stable 64-bit hash of a text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def licence_of(dist: metadata.Distribution) -> str | None:
    """The package's licence in short where its metadata names a permissive one and no other, else None."""
    fields = dist.metadata.json  # keys in lower case, a list where a field may stand more than once
    classifiers = [c.split("::")[-1].strip() for c in fields.get("classifier", []) if "License ::" in c]
    lines = str(fields.get("license") or "").strip().splitlines()
    expression = str(fields.get("license_expression") or "")
    named = expression or " AND ".join(classifiers) or (lines[0].strip() if lines else "")
    return named if PERMISSIVE.search(named) and not RESTRICTIVE.search(named) else None


def is_useful(text: str) -> bool:
    """Whether a file looks written by hand: not generated, not minified, not a table of data."""
    head = text[:1500].lower()
    lines = text.splitlines()
    if len(lines) < 10 or re.search(r"auto-?generated|automatically generated|do not edit|@generated", head):
        return False
    digits = sum(c.isdigit() for c in text) / len(text)
    return len(text) / len(lines) < 60 and max(map(len, lines)) < 400 and digits < 0.1


def _read(paths: Iterable[tuple[str, Path]], package: str, version: str, licence: str) -> Iterator[Source]:
    for name, path in sorted(paths, key=lambda item: digest(item[0])):
        if (
            SKIPPED_FOLDERS & set(Path(name).parts)
            or Path(name).name.startswith("test_")
            or not path.is_file()
        ):
            continue
        if path.stat().st_size > MAX_FILE_BYTES:
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if is_useful(text):
            yield Source(name=name, package=package, version=version, licence=licence, text=text)


def cpython_sources() -> Iterator[Source]:
    """CPython's library, each file named as in its repository ("Lib/...")."""
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = ((f"Lib/{path.relative_to(root).as_posix()}", path) for path in root.rglob("*.py"))
    yield from _read(paths, "CPython", platform.python_version(), "PSF-2.0")


def package_sources(name: str) -> Iterator[Source]:
    """One installed package's files, up to MAX_PACKAGE_BYTES; none where it is absent or not permissive."""
    try:
        dist = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        logger.warning("package %s is not installed: left out", name)
        return
    licence = licence_of(dist)
    if licence is None:
        logger.warning("package %s names no permissive licence: left out", name)
        return
    paths = ((str(file), Path(str(file.locate()))) for file in dist.files or [] if file.suffix == ".py")
    num_bytes = 0
    for source in _read(paths, name, dist.version, licence):
        num_bytes += len(source.text.encode())
        if num_bytes > MAX_PACKAGE_BYTES:
            return
        yield source


def runs_of(text: str) -> set[int]:
    """Hashes of every SHARED_LINES consecutive non-blank lines."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return {hash(tuple(lines[i : i + SHARED_LINES])) for i in range(len(lines) - SHARED_LINES + 1)}


def find_sources() -> tuple[list[Source], list[Source]]:
    """All sources as (training, held-out): no text twice, no training file that copies a held-out one."""
    everything = list(cpython_sources())
    for package in PACKAGES:
        everything.extend(package_sources(package))
    unique = list({digest(source.text): source for source in reversed(everything)}.values())
    heldout = sorted((s for s in unique if s.heldout), key=lambda s: s.name)
    held_runs = set().union(*(runs_of(s.text) for s in heldout))
    train = [s for s in unique if not s.heldout and len(runs_of(s.text) & held_runs) < SHARED_RUNS]
    logger.info("sources: %d found, %d held out, %d kept for training", len(unique), len(heldout), len(train))
    return sorted(train, key=lambda s: (s.package != "CPython", digest(s.name))), heldout
