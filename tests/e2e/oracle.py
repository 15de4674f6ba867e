"""What an engine says it did, in the simulator's words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sglang_mirror.bench.client import complete
from sglang_mirror.bench.law import read_trace
from sglang_mirror.bench.server import Server
from sglang_mirror.config import MirrorConfig
from sglang_mirror.core.simulator import Step
from sglang_mirror.core.verify import Outcome
from sglang_mirror.core.window import Window

DEFAULTS = MirrorConfig()


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
