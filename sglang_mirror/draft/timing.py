"""`python -m sglang_mirror.draft.timing`: what a draft's forwards and rollouts cost on a device, as JSON."""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from sglang_mirror.draft.backends.base import Backend, Segment
from sglang_mirror.draft.backends.graphed import BUCKETS, GraphedBackend
from sglang_mirror.draft.backends.load import load_torch
from sglang_mirror.draft.backends.torch_backend import TorchBackend
from sglang_mirror.draft.command import add_arguments, limits
from sglang_mirror.draft.timing_served import KAPPA, Served
from sglang_mirror.errors import MirrorError
from sglang_mirror.upscale.folder import make_folder
from sglang_mirror.upscale.shape import parse_shape

CHUNK = 128
WARMED_AFTER = 5
MOST_KERNELS = 30
ALL_TOKENS = sys.maxsize


class Rollouts:
    """Roots that grow by a token a forward, each behind the text of one of several requests.

    Args:
        backend: the draft.
        num_requests: that share the roots evenly.
        num_roots: of all requests.
        text_len: tokens of each request.
    """

    def __init__(self, backend: Backend, *, num_requests: int, num_roots: int, text_len: int) -> None:
        self._backend = backend
        self._text_len = text_len
        self._roots = shared(num_roots, num_requests)
        self._caches = [backend.new_cache() for _ in self._roots]
        for cache in self._caches:
            for first in range(0, text_len, CHUNK):
                places = range(first, min(first + CHUNK, text_len))
                tokens = [17 * place % backend.vocab_size for place in places]
                seen = [(2 << row) - 1 for row in range(len(places))]
                backend.forward([Segment(cache, tokens, places, first, first, seen, ())], KAPPA + 1)

    def run(self, num_levels: int) -> None:
        """Roll out from the text: each level's tokens are those that the last one found most probable."""
        tokens = [[root % self._backend.vocab_size for root in range(roots)] for roots in self._roots]
        for level in range(num_levels):
            segments = [
                self._level(request, level, tokens[request])
                for request in range(len(tokens))
                if tokens[request]
            ]
            said = iter(self._backend.forward(segments, KAPPA + 1))
            tokens = [[each.next.tokens[0] for each in next(said)] if row else [] for row in tokens]

    def _level(self, request: int, level: int, tokens: Sequence[int]) -> Segment:
        """A level's rows: a root sees itself, each later token those of its own branch."""
        roots, prefix = self._roots[request], self._text_len
        branch = sum(1 << earlier * roots for earlier in range(level + 1))
        return Segment(
            cache=self._caches[request],
            tokens=tokens,
            positions=[prefix + level] * roots,
            start=prefix + level * roots,
            prefix=prefix,
            seen=[branch << root for root in range(roots)],
            wanted=range(roots),
        )


def shared(num_roots: int, num_requests: int) -> list[int]:
    """How many roots each request has."""
    return [num_roots // num_requests + (i < num_roots % num_requests) for i in range(num_requests)]


def measure(call: Callable[[], object], *, repeats: int, device: str) -> dict[str, float]:
    """Milliseconds of a call, the device waited for: median and the middle four fifths."""
    for _ in range(WARMED_AFTER):
        call()
    times_ms = []
    for _ in range(repeats):
        _wait(device)
        start_s = time.perf_counter()
        call()
        _wait(device)
        times_ms.append((time.perf_counter() - start_s) * 1000)
    deciles = statistics.quantiles(times_ms, n=10)
    return {
        "median": round(statistics.median(times_ms), 3),
        "p10": round(deciles[0], 3),
        "p90": round(deciles[-1], 3),
    }


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def kernels(call: Callable[[], object], *, device: str) -> dict[str, dict[str, float]]:
    """What a call spends its time in: of each kernel how often, and milliseconds in all; the most first."""
    on_gpu = device.startswith("cuda")
    activity = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[activity.CUDA if on_gpu else activity.CPU]) as profiled:
        call()
        _wait(device)
    found = {
        event.key: (event.count, event.self_device_time_total if on_gpu else event.self_cpu_time_total)
        for event in profiled.key_averages()
    }
    most_first = sorted(found.items(), key=lambda item: -item[1][1])[:MOST_KERNELS]
    return {name: {"count": count, "ms": round(us / 1000, 3)} for name, (count, us) in most_first}


def time_backend(backend: TorchBackend, args: argparse.Namespace, *, repeats: int) -> dict[str, Any]:
    """What one backend takes, in milliseconds.

    Returns:
        `vocabulary`, the ids that candidates are chosen from; `forward_ms` by rows, of one request;
        `graph_ms` likewise, if there are graphs: what remains of these without the host's part; `draft_ms` of
        all roots' rollouts, and `kernels` of one, see there; `service_ms` of a step of the whole service with
        as many roots, and `service_forwards` of one.
    """
    found: dict[str, Any] = {
        "backend": type(backend).__name__,
        "vocabulary": backend.num_tokens,
        "forward_ms": {},
    }
    for num_rows in args.rows:
        one = Rollouts(backend, num_requests=1, num_roots=num_rows, text_len=args.text)
        call = functools.partial(one.run, 1)
        found["forward_ms"][num_rows] = measure(call, repeats=repeats, device=args.device)
        if isinstance(backend, GraphedBackend):
            replay = backend.replayed(num_rows)
            found.setdefault("graph_ms", {})[num_rows] = measure(replay, repeats=repeats, device=args.device)
    every = Rollouts(backend, num_requests=args.requests, num_roots=args.roots, text_len=args.text)
    found["draft_ms"] = measure(lambda: every.run(args.gamma), repeats=repeats, device=args.device)
    served = _served(backend, args)
    found["service_ms"] = measure(served.run, repeats=repeats, device=args.device)
    found["service_forwards"] = served.num_forwards
    if args.profile:
        found["kernels"] = kernels(lambda: every.run(args.gamma), device=args.device)
    return found


def _served(backend: Backend, args: argparse.Namespace) -> Served:
    """The roots in a service with the draft command's own limits."""
    command = argparse.ArgumentParser()
    add_arguments(command)
    usual = limits(command.parse_args(["--model", args.model, "--endpoint", "ipc://none"]), args.device)
    roots = shared(args.roots, args.requests)
    return Served(backend, usual, num_roots=roots, text_len=args.text, gamma=args.gamma)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Load the draft in each way that was asked for, and time it."""
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name(args.device) if args.device.startswith("cuda") else args.device,
        "torch_version": torch.__version__,
        **{name: getattr(args, name) for name in ("model", "shape", "roots", "gamma", "text", "requests")},
    }
    with tempfile.TemporaryDirectory() as folder:
        model = args.model
        if args.shape:
            model = str(make_folder(Path(model), parse_shape(args.shape), Path(folder)))
        repeats = {"torch": args.repeats, "torch-eager": args.eager_repeats, "torch-fused": args.repeats}
        for name in (name for name, count in repeats.items() if count):
            try:
                report[name] = _timed(name, model, args, repeats=repeats[name])
            except (MirrorError, RuntimeError) as error:
                if name != "torch-fused":
                    raise
                # Not for every model and device. It is the last: what it breaks, nothing is timed after.
                sys.stderr.write(f"{name} is left out: {error}\n")
    return report


def _timed(name: str, model: str, args: argparse.Namespace, *, repeats: int) -> dict[str, Any]:
    start_s = time.monotonic()
    vocabulary = args.vocabulary
    if vocabulary is None:
        vocabulary = ALL_TOKENS if args.shape else 0
    backend = load_torch(
        model, device=args.device, dtype=args.dtype, threads=0, kind=name, num_tokens=vocabulary
    )
    load_s = time.monotonic() - start_s
    return {"load_s": round(load_s, 1), **time_backend(backend, args, repeats=repeats)}


def _vocabulary(text: str) -> int:
    """A number of ids; the head bounds it."""
    number = ALL_TOKENS if text == "all" else int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: give 1 or more, or all")
    return number


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    options = argparse.ArgumentParser(prog="python -m sglang_mirror.draft.timing", description=__doc__)
    add = options.add_argument
    add("--model", required=True, help="model folder or hub name")
    add("--shape", default="", help="enlarge the folder's model to this shape first, such as 0.6b")
    add(
        "--vocabulary",
        type=_vocabulary,
        help="candidates are chosen from so many ids, or all of the model's head (default: all with --shape, "
        "whose tokenizer is the small model's, else the tokenizer's)",
    )
    add("--device", default="cuda", help="as PyTorch names it (default: %(default)s)")
    add("--dtype", default="auto", help="as of the draft process (default: %(default)s)")
    add("--roots", type=int, default=64, help="branches that are rolled out (default: %(default)s)")
    add("--requests", type=int, default=1, help="that they belong to (default: %(default)s)")
    add("--gamma", type=int, default=7, help="tokens of a branch (default: %(default)s)")
    add("--text", type=int, default=512, help="tokens of a request's text (default: %(default)s)")
    add("--rows", type=int, nargs="+", default=BUCKETS, help="of the forwards that are timed one by one")
    add("--repeats", type=int, default=50, help="of each measurement (default: %(default)s)")
    add("--eager-repeats", type=int, default=10, help="of the eager path's; 0: leave it out")
    add("--profile", action="store_true", help="also say which kernels the rollouts spend their time in")
    return options


if __name__ == "__main__":
    sys.stdout.write(json.dumps(run(parser().parse_args()), indent=2) + "\n")
