"""What the simulator says of a request, and what an engine says it did, in the same words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sglang_mirror.bench.client import complete
from sglang_mirror.bench.law import read_trace
from sglang_mirror.bench.server import Server
from sglang_mirror.config import MirrorConfig
from sglang_mirror.core.growth import WindowShape
from sglang_mirror.core.roots import RootMode
from sglang_mirror.core.simulator import Models, Step, simulate
from sglang_mirror.core.verify import Outcome
from sglang_mirror.core.window import Window
from tests.e2e.fleet import GAMMA

DEFAULTS = MirrorConfig()
CHAIN = WindowShape.chain(GAMMA)


def steps_of_simulator(
    models: Models, tokens: list[int], mode: RootMode, num_tokens: int, shape: WindowShape = CHAIN
) -> list[Step]:
    """What the simulator says of one request to a server of the tests, with the default settings."""
    steps = simulate(
        models,
        tokens,
        num_tokens=num_tokens,
        shape=shape,
        kappa=DEFAULTS.kappa,
        mode=mode,
        budget=DEFAULTS.root_budget,
    )
    return list(steps)


def steps_of_engine(server: Server, trace: Path, tokens: list[int], rid: str, num_tokens: int) -> list[Step]:
    """The engine's own account of one request."""
    parameters = {"temperature": 0, "max_new_tokens": num_tokens, "ignore_eos": True}
    complete(server.url, {"rid": rid, "input_ids": tokens, "sampling_params": parameters})
    return [_step(line) for line in read_trace(trace)[rid]]


def _step(line: dict[str, Any]) -> Step:
    committed, tokens = line["committed"], line["window"]
    window = Window(tuple(tokens), tuple(line["parents"])) if tokens else None
    node = window.reached(committed[:-1]) if window else 0
    assert node is not None, "padding was accepted"
    return Step(
        committed_len=line["committed_len"],
        window=tuple(tokens or ()),
        outcome=Outcome(node, committed[-1]),
        num_accepted=len(committed) - 1,
        source=line["source"],
    )
