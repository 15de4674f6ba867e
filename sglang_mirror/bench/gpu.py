"""`make gpu-bench`: targets of real size, the signal's way out and the draft's forwards, on the GPUs here.

What runs is chosen from what is there: where the draft has a GPU of its own, where it can have a share of the
target's, how many servers of a shape fit into one GPU. What cannot run is named, and the rest goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sglang_mirror.bench import command, mps
from sglang_mirror.bench.output import write_results
from sglang_mirror.bench.pair import embedded_pair
from sglang_mirror.errors import MirrorError
from sglang_mirror.upscale.shape import parse_shape

# Each shape with that of the draft which such a target has.
SHAPES = ("qwen3-14b+0.6b", "qwen3-32b+0.6b", "opt-66b+0.6b")
REFERENCES = ("plain", "eagle3")
MOST_TOGETHER, LEAST_TOGETHER = 4, 2
# Of a server besides its target's weights, in GiB: the draft, both processes' contexts, KV, graphs.
BESIDES_GIB = 6.0
BYTES_OF_BF16 = 2
SMALL_TIMEOUT_S = 600.0
SERVED = ("--device", "cuda", "--dtype", "bfloat16", "--timeline", "--start-timeout", "600")
# Each server needs almost all that the others leave, for the KV pool has its size by tokens.
FLAGS = "--disable-prefill-cuda-graph --mem-fraction-static 0.97"
LEAST_CAPTURED = 8  # the largest batch that is captured, unless more are asked at once
# What SGLang asks for by itself may not be installed: on Hopper fa3, a gigabyte of kernels.
WITHOUT_FA3 = "--attention-backend triton --sampling-backend pytorch"


def small() -> dict[str, tuple[str, ...]]:
    """Modules and their options for what needs no server, by the files that they fill."""
    signal = ("tests.gpu.signal_timing", "--shape", "qwen3-14b")
    draft = str(embedded_pair().draft)
    return {
        "gpu-signal": signal,
        "gpu-signal-32k": (*signal, "--exit-vocab", "32768"),
        "gpu-draft": ("sglang_mirror.draft.timing", "--model", draft, "--shape", "0.6b", "--profile"),
    }


def usable(backend: str) -> bool:
    """Whether what SGLang needs for an attention backend is installed."""
    needed = {"flashinfer": "flashinfer", "fa3": "sgl_kernel.flash_attn"}.get(backend, "triton")
    try:
        importlib.import_module(needed)
    except ImportError:
        return False
    return True


def gpus() -> list[float]:
    """The free memory in GiB of each GPU that we may use; empty where there is none."""
    query = ["nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
    if visible := os.getenv("CUDA_VISIBLE_DEVICES"):
        query.append(f"--id={visible}")
    with contextlib.suppress(OSError, subprocess.SubprocessError, ValueError):
        found = subprocess.run(query, capture_output=True, text=True, timeout=60, check=True)
        return [float(line) / 1024 for line in found.stdout.splitlines()]
    return []


def together(shape: str, free_gib: float) -> int:
    """How many servers of a shape `TARGET+DRAFT` one GPU holds, of those that are measured at once."""
    weights = parse_shape(shape.partition("+")[0]).num_parameters * BYTES_OF_BF16 / 2**30
    return min(MOST_TOGETHER, int(free_gib / (weights + BESIDES_GIB)))


def arms(num_gpus: int, *, shares: bool) -> list[str]:
    """What is measured, the most wanted first: mirror where its draft does best, and variants of that.

    Args:
        num_gpus: that there are.
        shares: whether two processes can compute on one GPU at the same time.
    """
    places = ["draft_device=cuda:1"] if num_gpus > 1 else []
    places += ["draft_device=cuda:0,draft_share=25"] if shares else []
    places.append("draft_device=cuda:0")  # in turns with its target, or beside it where GPUs can be shared
    best = places[0]
    settings = ("schedule=overlap", "draft_backend=torch-fused", "draft=streaming", "exit_vocab=32768")
    variants = [f"{best},{setting}" for setting in (*settings, "root_budget=32")]
    host = "draft_device=cpu,draft_dtype=bfloat16"
    first, *others = [f"mirror:{each}" for each in (best, *variants, *places[1:], host, "draft=none")]
    # What drafting meanwhile brings: the same draft, which computes while the target waits.
    return [first, "standalone", f"serial:{best}", *others]


def main() -> int:
    """Measure; 0 if everything ran."""
    parser = argparse.ArgumentParser(prog="python -m sglang_mirror.bench.gpu", description=__doc__)
    add = parser.add_argument
    add("--shapes", nargs="*", default=SHAPES, help="TARGET+DRAFT, or nothing (default: %(default)s)")
    add("--arms", type=int, help="only the first so many, the most wanted (default: all)")
    add("--questions", type=int, default=8, help="default: %(default)s")
    add("--concurrency", type=int, nargs="+", default=[1], help="questions at once (default: 1)")
    add("--tokens", type=int, default=128, help="most new tokens of each (default: %(default)s)")
    add("--server-flags", default="", help="further flags of every server, in one string")
    add("--out", type=Path, default=Path("out"), help="folder of the results (default: %(default)s)")
    add("--resume", action="store_true", help="keep what is in the folder, and measure what it lacks")
    args = parser.parse_args()
    free = gpus()
    if not free:
        sys.stderr.write("gpu: nvidia-smi finds no GPU here\n")
        return 2
    if not args.resume:
        (args.out / "gpu.json").unlink(missing_ok=True)
    failed: list[str] = []
    with mps.service() as found, _environment(found):
        chosen = arms(len(free), shares=bool(found))[: args.arms]
        for shape in args.shapes:
            failed += _shape(shape, chosen, args, free[0])
    failed += _small(args.out, resume=args.resume)  # the last, for it is wanted least
    for each in failed:
        sys.stdout.write(f"gpu: {each}\n")
    return 1 if failed else 0


@contextlib.contextmanager
def _environment(more: Mapping[str, str]) -> Iterator[None]:
    """What is started meanwhile has these variables too."""
    os.environ.update(more)
    try:
        yield
    finally:
        for name in more:
            del os.environ[name]


def _small(folder: Path, *, resume: bool) -> Iterator[str]:
    """What needs no server, each in a process and a file of its own; which failed, and why."""
    for name, words in small().items():
        path = folder / f"{name}.json"
        if resume and path.is_file():
            continue
        try:
            write_results(path, [], **_printed(words))
        except MirrorError as error:
            yield f"{name} failed: {error}"


def _printed(words: Sequence[str]) -> dict[str, Any]:
    """The JSON that a module prints.

    Raises:
        MirrorError: it printed none in time.
    """
    run = [sys.executable, "-m", *words]
    try:
        done = subprocess.run(run, capture_output=True, text=True, timeout=SMALL_TIMEOUT_S, check=False)
        found: dict[str, Any] = json.loads(done.stdout)
    except subprocess.TimeoutExpired as error:
        raise MirrorError(f"{words[0]} had not ended after {SMALL_TIMEOUT_S:.0f} s") from error
    except ValueError as error:
        raise MirrorError((done.stderr.strip().splitlines() or ["it printed nothing"])[-1]) from error
    return found


def asked(shape: str, chosen: Sequence[str], args: argparse.Namespace, *, count: int) -> argparse.Namespace:
    """What `sglang-mirror bench run` is asked for.

    Args:
        shape: `TARGET+DRAFT`.
        chosen: the arms, besides the references.
        args: ours.
        count: servers at once.
    """
    words = ["bench", "run", *SERVED, "--enlarge", shape, "--reference", *REFERENCES, "--arms", *chosen]
    words += ["--questions", str(args.questions), "--tokens", str(args.tokens), "--together", str(count)]
    words += ["--concurrency", *map(str, args.concurrency), "--json", str(args.out / "gpu.json"), "--resume"]
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    parsed = parser.parse_args(words)
    captured = f"--cuda-graph-max-bs-decode {max(LEAST_CAPTURED, *args.concurrency)}"
    parsed.server_flags = " ".join([FLAGS, captured, "" if usable("fa3") else WITHOUT_FA3, args.server_flags])
    return parsed


def _shape(shape: str, chosen: Sequence[str], args: argparse.Namespace, free_gib: float) -> Iterator[str]:
    """One target's comparison, behind those that the file has already; what did not run."""
    count = together(shape, free_gib)
    if count < LEAST_TOGETHER:
        yield f"{shape} did not run: two servers of it do not fit into {free_gib:.0f} GiB"
        return
    parsed = asked(shape, chosen, args, count=count)
    try:
        if parsed.run(parsed):
            yield f"{shape}: not every arm ran; the reasons stand above and in gpu.json"
    except MirrorError as error:
        yield f"{shape} did not run: {error}"


if __name__ == "__main__":
    sys.exit(main())
