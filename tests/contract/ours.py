"""What we use of SGLang, read from our own sources: names, calls, settings, methods of SGLang's classes."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from tests.contract.names import Function, targets
from tests.contract.reached import REACHED, REACHED_BY_PLATFORM
from tests.contract.signatures import Call

ROOT = Path(__file__).resolve().parents[2]
ENGINE = (ROOT / "sglang_mirror/engine", ROOT / "patches/sglang_mirror_patches")
PLATFORM = (ROOT / "sglang_mirror/platform",)
# SGLang's resolved settings by group.
BAGS = {f"sglang.srt.runtime_context.get_{group}" for group in ("device", "schedule", "serving", "spec")}
SETTINGS_NAMES = {"args", "server_args"}


@dataclass
class Uses:
    """What one part of ours uses.

    Attributes:
        names: dotted names that must be there.
        calls: by dotted name, how it is called.
        settings: SGLang's settings that are read or written.
        classes: our classes below SGLang's, by their name: SGLang's bases and the class.
        attributes: of whatever object.
    """

    names: set[str] = field(default_factory=set)
    calls: dict[str, list[Call]] = field(default_factory=lambda: defaultdict(list))
    settings: set[str] = field(default_factory=set)
    classes: dict[str, tuple[list[str], ast.ClassDef]] = field(default_factory=dict)
    attributes: set[str] = field(default_factory=set)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def function(path: Path, name: str) -> ast.arguments:
    """The parameters of one of our functions."""
    return next(node.args for node in tree(path).body if isinstance(node, Function) and node.name == name)


def engine_uses() -> Uses:
    return _uses(ENGINE, REACHED)


def platform_uses() -> Uses:
    return _uses(PLATFORM, REACHED_BY_PLATFORM)


def _uses(folders: tuple[Path, ...], reached: dict[str, tuple[str, ...]]) -> Uses:
    uses = Uses()
    for path in (file for folder in folders for file in sorted(folder.rglob("*.py"))):
        _Reader(path, uses, reached).visit(tree(path))
    uses.names |= {f"{owner}.{name}" for owner, names in reached.items() for name in names}
    return uses


@cache
def _imports(path: Path) -> dict[str, str]:
    """Local names of SGLang's, inside functions too; those that come by way of `engine.host` included."""
    found: dict[str, str] = {}
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                origin = f"{node.module}.{alias.name}"
                if node.module == "sglang_mirror.engine.host":
                    origin = _imports(ROOT / "sglang_mirror/engine/host.py")[alias.name]
                if origin.startswith("sglang."):
                    found[alias.asname or alias.name] = origin
    return found


class _Reader(ast.NodeVisitor):
    def __init__(self, path: Path, uses: Uses, reached: dict[str, tuple[str, ...]]) -> None:
        self._imports, self._uses = _imports(path), uses
        self._owners = {name: owner for owner, names in reached.items() for name in names}
        self._bags: set[str] = set()
        self._functions: list[Function] = []
        self._bases: list[str] = []
        self._reads_settings = path.name in ("settings.py", "flags.py", "worker.py")
        uses.names |= set(self._imports.values())

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        dotted = [self._dotted(base) for base in node.bases]
        # A class below one of ours stands where that one stands.
        inherited = [
            each for base in node.bases for each in self._uses.classes.get(ast.unparse(base), ([], node))[0]
        ]
        self._bases = [*(base for base in dotted if base), *inherited]
        if self._bases:
            self._uses.classes[node.name] = (self._bases, node)
        self.generic_visit(node)
        self._bases = []

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._functions.append(node)
        self.generic_visit(node)
        self._functions.pop()

    def visit_Assign(self, node: ast.Assign) -> None:
        if isinstance(node.value, ast.Call) and self._dotted(node.value.func) in BAGS:
            self._bags |= {target.id for target in targets(node) if isinstance(target, ast.Name)}
        for target in targets(node):
            if isinstance(target, ast.Name) and target.id == "REFUSED":
                self._refused(node.value)
        self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if isinstance(node.target, ast.Name) and node.target.id == "REFUSED" and node.value:
            self._refused(node.value)
        self.generic_visit(node)

    def _refused(self, table: ast.expr) -> None:
        """The first column of the settings that we refuse."""
        assert isinstance(table, ast.Tuple)
        for row in table.elts:
            assert isinstance(row, ast.Tuple)
            assert isinstance(row.elts[0], ast.Constant)
            self._uses.settings.add(str(row.elts[0].value))

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self._uses.attributes.add(node.attr)
        dotted = self._dotted(node)
        if dotted:
            self._uses.names.add(dotted)
        value = node.value
        of_bag = isinstance(value, ast.Call) and self._dotted(value.func) in BAGS
        if isinstance(value, ast.Name) and not node.attr.startswith("mirror_"):
            of_bag = value.id in self._bags or (self._reads_settings and value.id in SETTINGS_NAMES)
        if of_bag:
            self._uses.settings.add(node.attr)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if ast.unparse(node.func) in ("getattr", "hasattr") and isinstance(node.args[1], ast.Constant):
            self._uses.attributes.add(str(node.args[1].value))
        for target in self._called(node.func):
            self._uses.calls[target].append(self._call(node))
        self.generic_visit(node)

    def _called(self, func: ast.expr) -> Iterator[str]:
        """The SGLang names that a call's function may be."""
        dotted = self._dotted(func)
        if dotted:
            yield dotted
        elif isinstance(func, ast.Attribute):
            if isinstance(func.value, ast.Call) and ast.unparse(func.value) == "super()":
                yield from (f"{base}.{func.attr}" for base in self._bases)
            elif func.attr in self._owners:
                yield f"{self._owners[func.attr]}.{func.attr}"

    def _dotted(self, node: ast.expr) -> str | None:
        """The SGLang name that a chain of attributes is."""
        names: list[str] = []
        while isinstance(node, ast.Attribute):
            names.append(node.attr)
            node = node.value
        root = self._imports.get(node.id) if isinstance(node, ast.Name) else None
        return ".".join([root, *reversed(names)]) if root else None

    def _call(self, node: ast.Call) -> Call:
        starred = any(isinstance(arg, ast.Starred) for arg in node.args)
        keywords = frozenset(keyword.arg for keyword in node.keywords if keyword.arg)
        spread = [keyword.value for keyword in node.keywords if keyword.arg is None]
        sometimes = [self._keys(value) for value in spread]
        return Call(
            None if starred else len(node.args),
            keywords,
            frozenset().union(*(keys for keys in sometimes if keys)),
            any(keys is None for keys in sometimes),
        )

    def _keys(self, value: ast.expr) -> set[str] | None:
        """Keys of the dict displays of which this function makes a `**name`; None if there are none."""
        wanted = ast.unparse(value)
        found = {
            str(key.value)
            for node in (ast.walk(self._functions[-1]) if self._functions else ())
            if isinstance(node, ast.Assign) and any(ast.unparse(each) == wanted for each in targets(node))
            for display in ast.walk(node.value)
            if isinstance(display, ast.Dict)
            for key in display.keys
            if isinstance(key, ast.Constant)
        }
        return found or None
