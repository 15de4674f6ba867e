"""What a function or a class takes, and whether a call fits it."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field

from tests.contract.names import Found, Function, Release, statements

# Classes whose annotated fields are what they take.
RECORD_BASES = {"Struct", "NamedTuple"}


@dataclass
class Signature:
    """Parameters, without the instance or class that a method is called on.

    Attributes:
        positional: names of those that can be given by position, in order.
        keyword_only: names of the others.
        required: those without a default.
        any_positional: whether there is an `*args`.
        any_keyword: whether there is a `**kwargs`.
    """

    positional: list[str] = field(default_factory=list)
    keyword_only: list[str] = field(default_factory=list)
    required: set[str] = field(default_factory=set)
    any_positional: bool = False
    any_keyword: bool = False

    @property
    def names(self) -> list[str]:
        return self.positional + self.keyword_only


@dataclass(frozen=True)
class Call:
    """How we call something.

    Attributes:
        positional: how many arguments by position; None after an `*args`.
        keywords: always given.
        sometimes: given where a condition of ours says so.
        any_keyword: whether there is a `**kwargs` of which nothing is known.
    """

    positional: int | None
    keywords: frozenset[str]
    sometimes: frozenset[str] = frozenset()
    any_keyword: bool = False


def of_arguments(arguments: ast.arguments, *, drop_first: bool) -> Signature:
    positional = [arg.arg for arg in (*arguments.posonlyargs, *arguments.args)]
    bare = positional[: len(positional) - len(arguments.defaults)]
    keyword_only = [arg.arg for arg in arguments.kwonlyargs]
    required = {
        *bare[drop_first:],
        *(name for name, default in zip(keyword_only, arguments.kw_defaults, strict=True) if default is None),
    }
    return Signature(
        positional[drop_first:],
        keyword_only,
        required,
        arguments.vararg is not None,
        arguments.kwarg is not None,
    )


def of_found(release: Release, found: Found) -> Signature | None:
    """What a definition takes; None if that cannot be read."""
    if isinstance(found.node, Function):
        bound = found.holder is not None and not is_static(found.node)
        return of_arguments(found.node.args, drop_first=bound)
    if not isinstance(found.node, ast.ClassDef):
        return None
    if _is_record(found.node):
        return _of_record(release, found)
    init = release.member(found, "__init__")
    return Signature() if init is None else of_found(release, init)


def is_static(node: Function) -> bool:
    return any(ast.unparse(each) == "staticmethod" for each in node.decorator_list)


def _is_record(node: ast.ClassDef) -> bool:
    decorated = any("dataclass" in ast.unparse(each) for each in node.decorator_list)
    return decorated or any(ast.unparse(base).split(".")[-1] in RECORD_BASES for base in node.bases)


def _of_record(release: Release, found: Found) -> Signature:
    assert isinstance(found.node, ast.ClassDef)
    signature = Signature()
    for base in release.bases(found):
        if isinstance(base.node, ast.ClassDef) and _is_record(base.node):
            signature = _of_record(release, base)
    for statement in statements(found.node.body):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            signature.positional.append(statement.target.id)
            if statement.value is None:
                signature.required.add(statement.target.id)
    return signature


def misfits(signature: Signature, call: Call) -> list[str]:
    """Why a call does not fit; empty if it does."""
    found = []
    by_position = (
        signature.positional[: call.positional] if call.positional is not None else signature.positional
    )
    if (
        call.positional is not None
        and call.positional > len(signature.positional)
        and not signature.any_positional
    ):
        found.append(f"takes {len(signature.positional)} arguments by position, we give {call.positional}")
    if not signature.any_keyword:
        found += [f"takes no {name!r}" for name in sorted(call.keywords - set(signature.names))]
    if not call.any_keyword:
        given = {*by_position, *call.keywords, *call.sometimes}
        found += [f"needs {name!r}, which we do not give" for name in sorted(signature.required - given)]
    return found
