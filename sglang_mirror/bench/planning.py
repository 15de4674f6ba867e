"""From the command line to what is measured; whatever can be wrong in it is found before a server starts."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from sglang_mirror.bench.arm_specs import OWN, Setup, parse_arm
from sglang_mirror.bench.arms import Arm, Cores, Pair
from sglang_mirror.bench.experiment import Plan
from sglang_mirror.bench.pair import embedded_head, embedded_pair, embedded_streaming
from sglang_mirror.bench.tuned import TUNED
from sglang_mirror.bench.workload import load_workload
from sglang_mirror.errors import MirrorError
from sglang_mirror.upscale.folder import make_folder, make_head_folder
from sglang_mirror.upscale.shape import parse_shape

# A large shape's KV takes 64 KiB a token and more; so several servers fit into a small host's memory.
ENLARGED_TOKENS = 8192
LEAST = {
    **dict.fromkeys(("questions", "tokens", "repeats", "concurrency", "start-timeout"), 1),
    **{"temperature": 0, "together": 2},
}


def planned(args: argparse.Namespace) -> list[tuple[Plan, Setup]]:
    """One plan a target and group of arms, in the order in which they are measured.

    Raises:
        MirrorError: naming the setting, its value and what to give instead.
    """
    for name, least in LEAST.items():
        given = getattr(args, name.replace("-", "_"))
        for value in given if isinstance(given, list) else [given]:
            if value is not None and value < least:
                raise MirrorError(f"--{name} {value}: must be at least {least}")
    for path in filter(None, (args.target, args.draft, args.eagle3, args.streaming)):
        if not (path / "config.json").is_file():
            raise MirrorError(f"{path}: no model folder, it has no config.json")
    workloads = tuple(load_workload(source, args.questions) for source in args.workload)
    plans = []
    for target in args.enlarge:
        setup = _setup(args, target)
        references = dict.fromkeys(args.reference or args.arms[:1])
        arms = [parse_arm(text, setup) for text in dict.fromkeys([*references, *args.arms])]
        for group in groups(arms, args.together or len(arms), num_references=len(references)):
            plan = Plan(
                arms=group,
                workloads=workloads,
                temperatures=tuple(args.temperature),
                concurrencies=tuple(args.concurrency),
                num_tokens=args.tokens,
                repeats=args.repeats,
                start_timeout_s=args.start_timeout,
            )
            plans.append((plan, setup))
    return plans


def groups(arms: Sequence[Arm], together: int, *, num_references: int = 1) -> Iterator[tuple[Arm, ...]]:
    """The arms, at most `together` at once, each of them at some time beside each of the references.

    Args:
        arms: the references first.
        together: at most so many in a group. Where the references leave no place, they have groups of their
            own, one reference each.
        num_references: how many of them all others are measured against.
    """
    if together > num_references or len(arms) == 1:
        yield from _beside(arms[:num_references], arms[num_references:], together)
        return
    for place in range(num_references):
        yield from _beside(arms[place : place + 1], arms[place + 1 :], together)


def _beside(shared: Sequence[Arm], others: Sequence[Arm], together: int) -> Iterator[tuple[Arm, ...]]:
    """Groups of which each has the shared arms and some of the others."""
    size = max(together - len(shared), 1)
    for start in range(0, max(len(others), 1), size):
        yield (*shared, *others[start : start + size])


def _setup(args: argparse.Namespace, target: str) -> Setup:
    """The models of one target, enlarged ones beside the results, and the arms' settings for it."""
    embedded = embedded_pair(args.dtype)
    ours = not (args.target or args.draft)
    pair = dataclasses.replace(
        embedded,
        target=args.target or embedded.target,
        draft=args.draft or embedded.draft,
        device=args.device,
        more=tuple(shlex.split(args.server_flags)),
    )
    head = args.eagle3 or (embedded_head() if ours else None)
    streaming = args.streaming or (embedded_streaming() if ours else None)
    if target != OWN:
        pair, head, streaming = _enlarged(pair, head, streaming, target, args.json.parent / "enlarged")
    settings = {arm: dict(found) for arm, found in TUNED.get(target, TUNED[OWN]).items()} if ours else {}
    if args.gamma:
        for arm in ("mirror", "serial"):
            settings.setdefault(arm, {})["gamma"] = str(args.gamma)
    cores = Cores.one_each() if args.device == "cpu" else Cores.halves()
    return Setup(pair, cores, settings, head, streaming, target)


def _enlarged(
    pair: Pair, head: Path | None, streaming: Path | None, shapes: str, folder: Path
) -> tuple[Pair, Path | None, Path | None]:
    """The models in the shapes `TARGET` or `TARGET+DRAFT`; an EAGLE3 head takes the target's."""
    of_target, _, of_draft = shapes.partition("+")
    target = make_folder(pair.target, parse_shape(of_target), folder / f"target-{of_target}")
    draft = pair.draft
    if of_draft:
        draft = make_folder(draft, parse_shape(of_draft), folder / f"draft-{of_draft}")
        if streaming is not None:
            streaming = make_folder(streaming, parse_shape(of_draft), folder / f"streaming-{of_draft}")
    if head is not None:
        head = make_head_folder(head, target, folder / f"eagle3-{of_target}")
    return dataclasses.replace(pair, target=target, draft=draft, max_tokens=ENLARGED_TOKENS), head, streaming
