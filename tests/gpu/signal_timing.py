"""How fast the signal leaves a captured graph, and what it costs: `python -m tests.gpu.signal_timing`.

No SGLang: a stand-in for a target of the given sizes, each layer two products that read as many bytes as a
decoder layer of that shape, captured with and without the early exit. The signal goes the real way: side
stream, mailbox, its thread, the protocol's codec, a ZeroMQ socket, another process.

Latency is measured by difference: from a replay's start until the letter is here, and until the other process
has it, less what a graph of the layers before l_e alone takes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from sglang_mirror.bench.stats import spread
from sglang_mirror.engine.exit_head import ExitHead
from sglang_mirror.engine.mailbox import Place
from sglang_mirror.engine.signal import exit_candidates
from sglang_mirror.engine.streamed_exit import StreamedExit
from sglang_mirror.protocol.channel import DraftChannel, TargetChannel
from sglang_mirror.protocol.messages import Close, Signal, Stamp
from sglang_mirror.upscale.shape import Shape, parse_shape

KAPPA, WARM_UP = 8, 5
DEADLINE_S = 60.0


class Stand:
    """Layers of a shape: random weights, products only; its exit reads the head's first `exit_vocab` rows."""

    def __init__(self, shape: Shape, rows: int, exit_vocab: int, device: torch.device) -> None:
        width, heads = shape.hidden_size, shape.num_attention_heads + shape.num_key_value_heads
        # A layer's parameters as two matrices of one size.
        inner = (2 * heads * shape.head_dim + 3 * shape.intermediate_size) // 2
        scale = 1 / width
        self.weights = [
            tuple(torch.randn(size, dtype=torch.bfloat16, device=device) * scale for size in sizes)
            for sizes in [((inner, width), (width, inner))] * shape.num_hidden_layers
        ]
        self.head = torch.randn((shape.vocab_size, width), dtype=torch.bfloat16, device=device) * scale
        self.rows = torch.randn((rows, width), dtype=torch.bfloat16, device=device)
        self._exit_head = self.head[:exit_vocab]

    def read(self, hidden: torch.Tensor, _batch: Any = None) -> torch.Tensor:
        """The exit's norm and head: [N, exit_vocab]."""
        return F.linear(F.rms_norm(hidden, hidden.shape[-1:]), self._exit_head)

    def forward(self, *, layers: int, tap: StreamedExit | None = None, at: int = 0) -> torch.Tensor:
        hidden = self.rows
        for number, (up, down) in enumerate(self.weights[:layers]):
            if tap is not None and number == at:
                tap.take(hidden, None)
            hidden = hidden + F.linear(F.linear(hidden, up), down)
        logits = F.linear(F.rms_norm(hidden, hidden.shape[-1:]), self.head)
        if tap is not None:
            tap.finish()
        return logits


def captured(run: Callable[[], object]) -> torch.cuda.CUDAGraph:
    """A graph of `run`, after two warm-up runs beside the capture."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph


def timed(graph: torch.cuda.CUDAGraph, count: int) -> list[float]:
    """Milliseconds from replay to its end, as the host sees them."""
    times = []
    for number in range(WARM_UP + count):
        torch.cuda.synchronize()
        began = time.monotonic()
        graph.replay()
        torch.cuda.synchronize()
        if number >= WARM_UP:
            times.append((time.monotonic() - began) * 1000)
    return times


def _draft(endpoint: str, ready: Any, count: int, times: Any) -> None:
    """The other process: says when each signal came. It spins, as a draft on a GPU does."""
    channel = DraftChannel(endpoint)
    ready.set()
    deadline, known = time.monotonic() + DEADLINE_S, 0
    while known < count and time.monotonic() < deadline:
        received = channel.receive()
        now = time.monotonic()
        if received is not None and isinstance(received[1], Signal):
            times.put(now)
            known += 1
    channel.close()


def measure(shape: Shape, *, nodes: int, exit_vocab: int, count: int) -> dict[str, Any]:
    """The figures of one shape, times in milliseconds, medians and spreads of `count` replays."""
    device = torch.device("cuda")
    stand, layers = Stand(shape, nodes, exit_vocab, device), shape.num_hidden_layers
    exit_head = ExitHead(stand.read, KAPPA)
    letters = torch.zeros(1, Place.length(nodes, exit_head.width), dtype=torch.int32, pin_memory=True)
    tap = StreamedExit(exit_head, topk=1, device=device, letters=letters)
    half = captured(lambda: stand.forward(layers=layers // 2))
    head = captured(lambda: stand.read(stand.rows))
    whole = captured(lambda: stand.forward(layers=0))
    without = captured(lambda: stand.forward(layers=layers))
    with_exit = captured(lambda: stand.forward(layers=layers, tap=tap, at=layers // 2))
    children = torch.arange(nodes, dtype=torch.int64)[:, None]
    context = multiprocessing.get_context("spawn")
    ready, times = context.Event(), context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        endpoint = f"ipc://{Path(folder) / 'signal'}"
        total = WARM_UP + count
        draft = context.Process(target=_draft, args=(endpoint, ready, total, times), daemon=True)
        draft.start()
        ready.wait(DEADLINE_S)
        channel = TargetChannel(endpoint)
        _meet(channel)
        here, there, steps = [], [], []
        for number in range(total):
            arrived: list[float] = []

            def publish(tokens: torch.Tensor, logprobs: torch.Tensor, seen: list[float] = arrived) -> None:
                seen.append(time.monotonic())
                channel.send(Signal(tuple(exit_candidates([(Stamp(1, 1, 1), nodes)], tokens, logprobs))))

            torch.cuda.synchronize()
            tap.arm(children, publish)
            launched = time.monotonic()
            with_exit.replay()
            torch.cuda.synchronize()
            ended = time.monotonic()
            tap.disarm(0.0)
            if not arrived:
                continue
            known = times.get(timeout=DEADLINE_S)
            if number >= WARM_UP:
                here.append((arrived[0] - launched) * 1000)
                there.append((known - launched) * 1000)
                steps.append((ended - launched) * 1000)
        channel.close()
        draft.join(5)
        if draft.is_alive():
            draft.terminate()
    tap.mailbox.close()
    before, plain, read = timed(half, count), timed(without, count), timed(head, count)
    until = statistics.median(before) - statistics.median(
        timed(whole, count)
    )  # the half ends with a head too
    return {
        "parameters": shape.num_parameters,
        "nodes": nodes,
        "exit_vocab": exit_vocab,
        "step_without_exit": spread(plain),
        "step_with_exit": spread(timed(with_exit, count)),
        "step_with_exit_and_reader": spread(steps),
        "head_alone": spread(read),
        "until_exit_layer": until,
        "signal_at_host": statistics.median(here) - until if here else None,
        "signal_at_draft": statistics.median(there) - until if there else None,
        "letters": len(here),
        "torn": tap.mailbox.torn,
        "count": count,
    }


def _meet(channel: TargetChannel) -> None:
    """Until the other end takes messages."""
    deadline = time.monotonic() + DEADLINE_S
    while not channel.send(Close(())) and time.monotonic() < deadline:
        time.sleep(0.01)


def main() -> int:
    """Measure one shape and print its JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="qwen3-14b", help="as `sglang-mirror bench run --enlarge` has it")
    parser.add_argument("--nodes", type=int, default=9, help="of the window")
    parser.add_argument("--exit-vocab", type=int, help="rows of the head that the exit reads (default: all)")
    parser.add_argument("--count", type=int, default=100, help="replays (default: %(default)s)")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.stderr.write("signal_timing: there is no GPU here\n")
        return 1
    with torch.inference_mode():
        shape = parse_shape(args.shape)
        exit_vocab = args.exit_vocab or shape.vocab_size
        found = measure(shape, nodes=args.nodes, exit_vocab=exit_vocab, count=args.count)
    sys.stdout.write(json.dumps({"shape": args.shape, **found}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
