"""What is wrong with a release, as findings: each a sentence that begins with the name it is about."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.contract.hooked import Hook
from tests.contract.names import OPAQUE, Found, Function, Release
from tests.contract.ours import Uses
from tests.contract.signatures import Signature, is_static, misfits, of_arguments, of_found

SETTINGS = "sglang.srt.server_args.ServerArgs"
ALGORITHM = "sglang.srt.speculative.spec_info.SpeculativeAlgorithm"
PLUGIN_ALGORITHM = "sglang.srt.speculative.spec_registry.CustomSpecAlgo"
# What SGLang asks of an algorithm is what its enum answers; the class for plugins does not repeat all of it.
ASKED_TOO = {PLUGIN_ALGORITHM: ALGORITHM}
# The enum's own class methods, which nobody calls on a member.
OF_THE_ENUM = {"from_string", "register"}
# Where SGLang talks to its worker.
CALLERS = ("sglang/srt/managers/", "sglang/srt/mem_cache/kv_cache_builder.py")
WORKER_NAMES = {"draft_worker", "model_worker"}
LAYERS = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3"}


def missing_names(release: Release, uses: Uses) -> Iterator[str]:
    for name in sorted(uses.names):
        if release.find(name) is None:
            yield f"{name} is not there"
    for name in sorted(uses.settings - release.server_fields):
        yield f"{SETTINGS}.{name} is not there"


def misfitting_calls(release: Release, uses: Uses) -> Iterator[str]:
    for name, calls in sorted(uses.calls.items()):
        found = release.find(name)
        signature = of_found(release, found) if found else None
        if signature is not None:
            yield from (f"{name} {reason}" for call in calls for reason in misfits(signature, call))


def misfitting_methods(release: Release, uses: Uses, others: list[Release]) -> Iterator[str]:
    """Methods of ours that SGLang calls: those that its class has, in whatever release."""
    for class_name, (bases, node) in sorted(uses.classes.items()):
        for method in (each for each in node.body if isinstance(each, Function)):
            if method.name.startswith("__"):
                continue
            theirs = _method(release, bases, method.name)
            if theirs is None:
                if any(_method(other, bases, method.name) for other in others):
                    yield f"{class_name}.{method.name} is not asked for"
                continue
            signature = of_found(release, theirs)
            takes = of_arguments(method.args, drop_first=True)
            if signature is not None and not takes.any_keyword:
                unknown = sorted(set(signature.names) - set(takes.names))
                yield from (f"{class_name}.{method.name} is given {name!r}" for name in unknown)


def _method(release: Release, bases: list[str], name: str) -> Found | None:
    wide = [*bases, *(ASKED_TOO[base] for base in bases if base in ASKED_TOO)]
    return next((found for base in wide if (found := release.find(f"{base}.{name}")) is not None), None)


def misfitting_hooks(release: Release, hooks: list[Hook]) -> Iterator[str]:
    for hook in hooks:
        found = release.find(hook.target)
        if found is None:
            yield f"{hook.target} is not there to be hooked"
            continue
        theirs = of_found(release, found)
        if theirs is None:
            continue
        whole = _with_instance(theirs, found)
        if hook.replaces and whole.names != hook.takes.names:
            yield f"{hook.target} takes {whole.names}, ours takes {hook.takes.names}"
        elif not hook.replaces:
            yield from (f"{hook.target} {reason}" for reason in _unlike(whole, hook.takes))


def _with_instance(signature: Signature, found: Found) -> Signature:
    """A method's instance or class is the first argument that a hook gets."""
    if not isinstance(found.node, Function) or found.holder is None or is_static(found.node):
        return signature
    return Signature(["self", *signature.positional], signature.keyword_only, signature.required)


def _unlike(theirs: Signature, ours: Signature) -> Iterator[str]:
    """What a hook takes by name must stand where SGLang's function has it, and all else must pass through."""
    for place, name in enumerate(ours.positional):
        there = theirs.positional[place] if place < len(theirs.positional) else None
        if there not in (name, "self"):
            yield f"has {there!r} where our hook has {name!r}"
    yield from (
        f"has no {name!r}, which our hook takes" for name in ours.keyword_only if name not in theirs.names
    )
    more = len(theirs.positional) > len(ours.positional) and not ours.any_positional
    if (more and not ours.any_keyword) or (
        set(theirs.keyword_only) - set(ours.names) and not ours.any_keyword
    ):
        yield "takes more than our hook passes on"


def unanswered_questions(release: Release, uses: Uses) -> Iterator[str]:
    """What SGLang asks of an algorithm or of a worker that neither its base class nor ours has."""
    algorithm = release.find(ALGORITHM)
    assert algorithm is not None
    assert isinstance(algorithm.node, ast.ClassDef)
    for asked in (each.name for each in algorithm.node.body if isinstance(each, Function)):
        if (
            not asked.startswith("_")
            and asked not in OF_THE_ENUM
            and not _has(release, uses, "MirrorAlgorithm", asked)
        ):
            yield f"MirrorAlgorithm has no {asked}"
    for asked in sorted(_asked_of_worker(release)):
        without_draft = asked.startswith("draft_worker.")
        if without_draft or not _has(release, uses, "MirrorWorker", asked):
            yield f"MirrorWorker has no {asked}"


def _has(release: Release, uses: Uses, class_name: str, name: str) -> bool:
    bases, node = uses.classes[class_name]
    ours = release.member(Found("", ast.ClassDef(class_name, [], [], node.body, [])), name)
    return ours is not None or any(release.find(f"{base}.{name}") for base in bases)


def _asked_of_worker(release: Release) -> set[str]:
    """Attributes of `….draft_worker` and `….model_worker`; of the worker's own draft with that in front."""
    asked: set[str] = set()
    for path in release.sources.paths():
        if not path.startswith(CALLERS):
            continue
        text = release.sources.read(path) or ""
        if not any(name in text for name in WORKER_NAMES):
            continue
        for node in ast.walk(release.module(path.removesuffix(".py").replace("/", ".")) or OPAQUE):
            if isinstance(node, ast.Attribute) and _last(node.value) in WORKER_NAMES:
                assert isinstance(node.value, ast.Attribute | ast.Name)
                inner = isinstance(node.value, ast.Attribute) and _last(node.value.value) in WORKER_NAMES
                asked.add(f"draft_worker.{node.attr}" if inner else node.attr)
    return asked


def _last(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def unknown_layers(release: Release) -> Iterator[str]:
    """The early exit taps a layer that takes its input as a pair, or hands it to a callback."""
    for module, name in LAYERS.items():
        dotted = f"sglang.srt.models.{module}.{name}DecoderLayer.forward"
        found = release.find(dotted)
        signature = of_found(release, found) if found else None
        takes = set(signature.names) if signature else set()
        if not {"hidden_states", "forward_batch"} <= takes or not {"residual", "capture_output"} & takes:
            yield f"{dotted} takes {sorted(takes)}"
