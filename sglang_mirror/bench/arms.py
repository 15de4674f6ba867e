"""The arms of a comparison: what each adds to the server's command line."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sglang_mirror.bench.server import Server, cpu_environment

# The same for every arm. Without the prefix cache a repeated prompt costs the same each time; asleep when
# idle, the arms that wait for their turn leave the cores alone.
COMMON = ("--disable-radix-cache", "--sleep-on-idle", "--skip-server-warmup", "--log-level", "warning")
CPU = ("--device", "cpu", "--attention-backend", "torch_native")


@dataclass(frozen=True, slots=True)
class Pair:
    """A target and its draft, and how the target is held.

    Attributes:
        target: its folder.
        draft: its folder.
        dtype: of the target's weights and KV.
        max_tokens: of all requests together: their KV takes its memory at the start.
        device: of the target, cpu or cuda.
        more: further flags of every arm's server.
    """

    target: Path
    draft: Path
    dtype: str = "float32"
    max_tokens: int = 32768
    device: str = "cpu"
    more: tuple[str, ...] = ()

    @property
    def flags(self) -> tuple[str, ...]:
        """How a server holds the target, whatever the arm."""
        where = CPU if self.device == "cpu" else ("--device", self.device)
        return (*where, "--dtype", self.dtype, "--max-total-tokens", str(self.max_tokens), *self.more)


@dataclass(frozen=True, slots=True)
class Cores:
    """CPU cores of the target's server and of the draft's process; with one core they share it."""

    target: tuple[int, ...]
    draft: tuple[int, ...]

    @classmethod
    def one_each(cls) -> Cores:
        """One core for each, the same for every arm's target."""
        ours = sorted(os.sched_getaffinity(0))
        return cls((ours[0],), (ours[-1],))

    @classmethod
    def halves(cls) -> Cores:
        """Half of the cores for each: beside a GPU they only prepare its work."""
        ours = sorted(os.sched_getaffinity(0))
        middle = max(1, len(ours) // 2)
        return cls(tuple(ours[:middle]), tuple(ours[middle:] or ours))


@dataclass(frozen=True, slots=True)
class Arm:
    """A named way of decoding.

    Attributes:
        name: as results call it.
        flags: added to the server's command line.
        all_cores: whether the target gets every core (plain decoding's best).
        missing: what it lacks to run at all, and the remedy; empty if nothing.
        has_draft: whether a server that decodes by mirror finds one.
    """

    name: str
    flags: tuple[str, ...] = ()
    all_cores: bool = False
    missing: str = ""
    has_draft: bool = True


def plain() -> Arm:
    return Arm("plain")


def mirror(
    pair: Pair,
    cores: Cores,
    *,
    gamma: int,
    topk: int = 1,
    nodes: int = 0,
    name: str = "mirror",
    **settings: Any,
) -> Arm:
    """Mirror with this draft.

    Args:
        pair: whose draft it is.
        cores: where the draft runs.
        gamma: depth of a window.
        topk: children a node.
        nodes: of a window, if not what the server chooses.
        name: of the arm.
        settings: of `sglang_mirror.config`.
    """
    flags = ["--speculative-algorithm", "mirror", "--speculative-draft-model-path", str(pair.draft)]
    flags += ["--speculative-num-steps", str(gamma), "--speculative-eagle-topk", str(topk)]
    flags += ["--speculative-num-draft-tokens", str(nodes)] if nodes else []
    flags += ["--mirror-draft-cpus", ",".join(map(str, cores.draft))]
    for key, value in settings.items():
        flags += ["--mirror-" + key.replace("_", "-"), str(value)]
    return Arm(name, tuple(flags))


def server(arm: Arm, pair: Pair, cores: Cores, log: Path, *, common: tuple[str, ...] = COMMON) -> Server:
    """The arm's server, not started; `common` flags are the same for every arm."""
    all_cores = sorted(os.sched_getaffinity(0))
    return Server(
        str(pair.target),
        (*pair.flags, *common, *arm.flags),
        log=log,
        cpus=all_cores if arm.all_cores else cores.target,
        environment=cpu_environment(len(all_cores) if arm.all_cores else 1),
    )
