"""Finding names in a release by reading it: what modules define or re-export, classes with their bases."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property

from tests.contract.releases import Sources

FIELDS_FOLDER = "sglang/srt/arg_groups/fields/"
Function = ast.FunctionDef | ast.AsyncFunctionDef
# A name that is there, but whose meaning cannot be read from the text.
OPAQUE = ast.Constant(None)


@dataclass(frozen=True)
class Found:
    """A definition and the module that it stands in; `holder` is the class of a member."""

    module: str
    node: ast.AST
    holder: ast.ClassDef | None = None


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Those that run when the block does, whichever branch is taken; not those for type checkers alone."""
    for statement in body:
        yield statement
        if isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test):
            continue
        if isinstance(statement, ast.If | ast.Try | ast.With):
            for block in ("body", "orelse", "finalbody"):
                yield from statements(getattr(statement, block, []))
            for handler in getattr(statement, "handlers", []):
                yield from statements(handler.body)


def targets(statement: ast.stmt) -> list[ast.expr]:
    """What an assignment assigns to, tuples taken apart."""
    if isinstance(statement, ast.AnnAssign):
        return [statement.target]
    if not isinstance(statement, ast.Assign):
        return []
    return [
        each
        for target in statement.targets
        for each in (target.elts if isinstance(target, ast.Tuple) else [target])
    ]


class Release:
    """One version of SGLang.

    Args:
        version: its number.
        sources: its files.
    """

    def __init__(self, version: str, sources: Sources) -> None:
        self.version, self.sources = version, sources
        self._modules: dict[str, ast.Module | None] = {}

    def module(self, dotted: str) -> ast.Module | None:
        if dotted not in self._modules:
            path = dotted.replace(".", "/")
            text = self.sources.read(f"{path}.py") or self.sources.read(f"{path}/__init__.py")
            self._modules[dotted] = None if text is None else ast.parse(text)
        return self._modules[dotted]

    def find(self, dotted: str) -> Found | None:
        """The definition of a dotted name: a module, names in it, members. None if it is not there."""
        parts = dotted.split(".")
        for cut in range(len(parts), 0, -1):
            tree = self.module(".".join(parts[:cut]))
            if tree is not None:
                return self._below(Found(".".join(parts[:cut]), tree), parts[cut:])
        return None

    def _below(self, start: Found | None, names: list[str]) -> Found | None:
        found = start
        for name in names:
            if found is None or found.node is OPAQUE:
                return found
            if isinstance(found.node, ast.Module):
                found = self._in_module(found.module, name)
            elif isinstance(found.node, ast.ClassDef):
                found = self.member(found, name)
            else:
                return None
        return found

    def _in_module(self, module: str, name: str) -> Found | None:
        tree = self.module(module)
        assert tree is not None
        known: Found | None = None
        for statement in statements(tree.body):
            if isinstance(statement, Function | ast.ClassDef) and statement.name == name:
                return Found(module, statement)
            if isinstance(statement, ast.ImportFrom):
                known = known or self._imported(module, statement, name)
            elif isinstance(statement, ast.Import) and any(
                (alias.asname or alias.name.split(".")[0]) == name for alias in statement.names
            ):
                known = Found(module, OPAQUE)
            elif any(isinstance(target, ast.Name) and target.id == name for target in targets(statement)):
                known = known or self._alias(module, statement, name)
        if known is None and self.module(f"{module}.{name}") is not None:
            return self.find(f"{module}.{name}")
        return known

    def _imported(self, module: str, statement: ast.ImportFrom, name: str) -> Found | None:
        """What `from x import y` makes of a name here; a name of another package is not followed."""
        for alias in statement.names:
            if alias.name != "*" and (alias.asname or alias.name) != name:
                continue
            origin = self._origin(module, statement)
            if origin.split(".")[0] != "sglang":
                if alias.name != "*":
                    return Found(module, OPAQUE)
            elif origin != module:
                return self.find(f"{origin}.{name if alias.name == '*' else alias.name}")
        return None

    def _origin(self, module: str, statement: ast.ImportFrom) -> str:
        if not statement.level:
            return statement.module or ""
        is_package = self.sources.read(module.replace(".", "/") + "/__init__.py") is not None
        above = module.split(".")
        above = above[: len(above) - statement.level + is_package]
        return ".".join([*above, *([statement.module] if statement.module else [])])

    def _alias(self, module: str, statement: ast.stmt, name: str) -> Found:
        """`x = y` is y; any other value cannot be read."""
        value = getattr(statement, "value", None)
        same = value.id if isinstance(value, ast.Name) and value.id != name else None
        return (self._in_module(module, same) if same else None) or Found(module, OPAQUE)

    def member(self, found: Found, name: str) -> Found | None:
        """A class's member: of its body, an attribute that its methods set on self, or a base's."""
        assert isinstance(found.node, ast.ClassDef)
        for statement in statements(found.node.body):
            if isinstance(statement, Function | ast.ClassDef) and statement.name == name:
                return Found(found.module, statement, found.node)
            if any(isinstance(target, ast.Name) and target.id == name for target in targets(statement)):
                return Found(found.module, OPAQUE, found.node)
        if name in _set_on_self(found.node):
            return Found(found.module, OPAQUE, found.node)
        return next(
            (member for base in self.bases(found) if (member := self._below(base, [name])) is not None), None
        )

    def bases(self, found: Found) -> list[Found]:
        """A class's bases as far as they are SGLang's."""
        assert isinstance(found.node, ast.ClassDef)
        start = [
            self._below(self.find(found.module), ast.unparse(base).split(".")) for base in found.node.bases
        ]
        return [base for base in start if base is not None and isinstance(base.node, ast.ClassDef)]

    @cached_property
    def server_fields(self) -> set[str]:
        """The names of SGLang's settings: of ServerArgs, which from 0.5.20 on has one file a group."""
        record = self.find("sglang.srt.server_args.ServerArgs")
        assert record is not None
        classes = [record.node]
        for path in self.sources.paths():
            if path.startswith(FIELDS_FOLDER):
                classes += (
                    self.module(path.removesuffix(".py").replace("/", ".")) or ast.Module([], [])
                ).body
        return {
            statement.target.id
            for node in classes
            if isinstance(node, ast.ClassDef)
            for statement in node.body
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
        }


@cache
def _set_on_self(node: ast.ClassDef) -> set[str]:
    return {
        inner.attr
        for inner in ast.walk(node)
        if isinstance(inner, ast.Attribute)
        and isinstance(inner.ctx, ast.Store)
        and isinstance(inner.value, ast.Name)
        and inner.value.id == "self"
    }
