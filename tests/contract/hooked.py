"""What we hook or replace in SGLang: the ledger's seams, and the torch-only platform's functions."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sglang_mirror_patches.ledger import SEAMS
from tests.contract.names import targets
from tests.contract.ours import ENGINE, PLATFORM, function, tree
from tests.contract.signatures import Signature, of_arguments

REPLACEMENTS = PLATFORM[0] / "replacements.py"


@dataclass(frozen=True)
class Hook:
    """A function of ours at one of SGLang's.

    Attributes:
        target: SGLang's dotted name.
        takes: what ours takes of the target's parameters, without what the registry adds in front.
        replaces: whether the target is never called.
    """

    target: str
    takes: Signature
    replaces: bool = False


def seams(version: str) -> list[Hook]:
    """Those that the ledger registers with this release."""
    return [
        Hook(seam.target, of_arguments(function(_file(seam.hook), seam.hook.__name__), drop_first=True))
        for seam in SEAMS
        if seam.fits(version)
    ]


def _file(hook: Callable[..., Any]) -> Path:
    return ENGINE[1].parent / (hook.__module__.replace(".", "/") + ".py")


def platform_hooks() -> list[Hook]:
    """Read by AST, since `replacements` imports SGLang."""
    strings: dict[str, str] = {}
    hooks: list[Hook] = []
    for statement in tree(REPLACEMENTS).body:
        name = next((target.id for target in targets(statement) if isinstance(target, ast.Name)), "")
        value = getattr(statement, "value", None)
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            strings[name] = value.value
        elif isinstance(value, ast.Dict):
            for key, ours in zip(value.keys, value.values, strict=True):
                assert key is not None
                hooks.append(_platform_hook(_text(key, strings), ours))
    return hooks


def _text(node: ast.expr, strings: dict[str, str]) -> str:
    """A string or an f-string of module constants."""
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part, strings) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return strings[ast.unparse(node.value)]
    assert isinstance(node, ast.Constant)
    return str(node.value)


def _platform_hook(target: str, ours: ast.expr) -> Hook:
    """`module.function` replaces; `("module", "function")` gets the original in front."""
    replaces = isinstance(ours, ast.Attribute)
    module, name = ast.unparse(ours).split(".") if replaces else ast.literal_eval(ours)
    arguments = function(PLATFORM[0] / f"{module}.py", name)
    return Hook(target, of_arguments(arguments, drop_first=not replaces), replaces)
