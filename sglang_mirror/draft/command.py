"""The command `sglang-mirror draft`: one draft process in the foreground."""

from __future__ import annotations

import argparse
import logging
import math
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from sglang_mirror.draft.launcher import BAD_SETTINGS, cpu_problems, cpus_of, trace_problems
from sglang_mirror.draft.parent import ParentWatch
from sglang_mirror.errors import MirrorError, SettingsError
from sglang_mirror.protocol.endpoint import DRAFT_KEY, endpoint_problems, remove_private
from sglang_mirror.protocol.vocabulary import is_missing, vocabulary_fingerprint

if TYPE_CHECKING:
    from sglang_mirror.draft.scheduler import Limits
    from sglang_mirror.draft.server import DraftServer

logger = logging.getLogger(__name__)

# Where every row costs, few of them per forward; an H200 computes 128 rows of a 0.6B draft in 1.3 times the
# time of 64 (docs/results.md).
ROWS_ON_CPU, ROWS_ON_GPU = 64, 128
# Beside a window that is waited for: there 64 rows take 1.1 times as long as one. Prompt tokens have at most
# what rollouts leave of the largest graph, which is of 192 rows.
ROWS_WHILE_AWAITED_ON_CPU, ROWS_WHILE_AWAITED_ON_GPU = 8, 64
SHARED_PREFILL_ROWS_ON_CPU, SHARED_PREFILL_ROWS_ON_GPU = 64, 128
# What follows the signal must be ready in less than half of the target's step, and on a CPU every row costs.
ROWS_AFTER_SIGNAL_ON_CPU = 4
# Several steps of a target. On a CPU the core that would spin may be the target's.
SPIN_MS_ON_GPU = 50.0

FAILED = 1


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `draft` to a command's sub-commands."""
    parser = subparsers.add_parser("draft", help="run a draft process", description=__doc__)
    add_arguments(parser)
    parser.set_defaults(run=run)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Every option of the draft process."""
    add = parser.add_argument
    add("--model", required=True, help="model folder or hub name")
    add("--endpoint", required=True, help="ipc://PATH or tcp://HOST:PORT to serve on")
    add("--device", default="cpu", help="cpu, cuda:1, ... (default: %(default)s)")
    add(
        "--backend",
        default="torch",
        help="torch; torch-fused: merged kernels in its CUDA graphs, a GPU only; torch-eager: no CUDA graphs "
        "(default: %(default)s)",
    )
    add(
        "--dtype",
        default="auto",
        help="float32, bfloat16, float16 or auto: float32 on a CPU, else the model's",
    )
    add("--memory-gb", type=float, help="GiB of the GPU's memory, weights and all (default: what is free)")
    add(
        "--threads",
        type=int,
        default=0,
        help="CPU threads; 1 suits a small model, 0: PyTorch's default",
    )
    add("--cpus", default="", help="CPUs to stay on, such as 1 or 0-3 or 2,5")
    keys = parser.add_mutually_exclusive_group()
    keys.add_argument("--curve-dir", type=Path, help="folder of CURVE keys; only their owners may connect")
    keys.add_argument("--insecure-tcp", action="store_true", help="serve tcp:// without keys")
    add("--parent-pid", type=int, default=0, help="end when this process ends")
    add(
        "--rows",
        type=int,
        help=f"rows of rollouts in one forward (default: {ROWS_ON_CPU} on a CPU, elsewhere {ROWS_ON_GPU})",
    )
    add(
        "--rows-after-signal",
        type=int,
        help="rows of a request's branches once the early exit has spoken (default: "
        f"{ROWS_AFTER_SIGNAL_ON_CPU} on a CPU, elsewhere all)",
    )
    add(
        "--streamed-branches",
        action=argparse.BooleanOptionalAction,
        help="compute a streaming draft's guesses in branches too, not only in windows that are waited for "
        "(default: not on a CPU, where each guess costs a row)",
    )
    add(
        "--prefill-rows",
        type=int,
        default=128,
        help="prompt tokens in one forward, at most; fewer where they take long (default: %(default)s)",
    )
    add(
        "--spin-ms",
        type=float,
        help="how long an idle draft keeps a core busy to hear the next message sooner (default: 0 on a CPU, "
        f"elsewhere {SPIN_MS_ON_GPU:g})",
    )
    add("--trace", type=Path, help="write every forward to this file, one JSON object a line")


def run(args: argparse.Namespace) -> int:
    """Serve until told to stop.

    Returns:
        the exit status: 0 when told to stop, 2 if the settings cannot work, 1 if another start may do better.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s draft %(levelname)s %(message)s")
    signal.signal(signal.SIGTERM, _leave)
    parent = ParentWatch(args.parent_pid)
    try:
        _prepare(args, parent).run()
    except MirrorError as error:
        sys.stderr.write(f"sglang-mirror draft: {error}\n")
        return BAD_SETTINGS if isinstance(error, SettingsError) else FAILED
    finally:
        if parent.gone():  # it made a private endpoint, and did not live to remove it
            remove_private(args.endpoint)
    return 0


def _leave(_signal: int, _frame: FrameType | None) -> None:
    """SIGTERM before there is anything to finish."""
    raise SystemExit(0)


def _prepare(args: argparse.Namespace, parent: ParentWatch) -> DraftServer:
    from sglang_mirror.draft.backends import load_backend  # noqa: PLC0415 - torch is heavy, and comes last
    from sglang_mirror.draft.backends.device import bound_memory  # noqa: PLC0415
    from sglang_mirror.draft.server import DraftServer, bind  # noqa: PLC0415
    from sglang_mirror.draft.trace import Trace  # noqa: PLC0415

    problems = _problems(args)
    if problems:
        raise SettingsError(problems)
    if args.cpus:
        os.sched_setaffinity(0, cpus_of(args.cpus))
    vocabulary = vocabulary_fingerprint(args.model)
    if args.memory_gb is not None:
        bound_memory(args.device, args.memory_gb)
    backend = load_backend(
        args.backend, model=args.model, device=args.device, dtype=args.dtype, threads=args.threads
    )
    trace = Trace(args.trace)
    channel = bind(args.endpoint, args.curve_dir)
    logger.info("%s on %s serves %s", backend.name, backend.device, channel.endpoint)
    return DraftServer(
        channel,
        backend,
        vocabulary,
        limits=limits(args, backend.device),
        trace=trace,
        parent=parent,
        spin_s=spin_ms(args, backend.device) / 1000,
    )


def limits(args: argparse.Namespace, device: str) -> Limits:
    """How much goes into a forward: what was asked for, else what suits the device."""
    from sglang_mirror.draft.scheduler import Limits  # noqa: PLC0415 - torch is heavy

    shared = _suited(None, device, SHARED_PREFILL_ROWS_ON_CPU, SHARED_PREFILL_ROWS_ON_GPU)
    return Limits(
        rows=_suited(args.rows, device, ROWS_ON_CPU, ROWS_ON_GPU),
        rows_while_awaited=_suited(None, device, ROWS_WHILE_AWAITED_ON_CPU, ROWS_WHILE_AWAITED_ON_GPU),
        rows_after_signal=_suited(args.rows_after_signal, device, ROWS_AFTER_SIGNAL_ON_CPU, None),
        streamed_branches=_suited(args.streamed_branches, device, False, True),
        prefill_rows=args.prefill_rows,
        shared_prefill_rows=min(shared, args.prefill_rows),
    )


def spin_ms(args: argparse.Namespace, device: str) -> float:
    """How long an idle draft spins: what was asked for, else what suits the device."""
    return float(_suited(args.spin_ms, device, 0.0, SPIN_MS_ON_GPU))


def _suited(asked: Any, device: str, on_cpu: Any, elsewhere: Any) -> Any:
    if asked is not None:
        return asked
    return on_cpu if device == "cpu" else elsewhere


def _problems(args: argparse.Namespace) -> list[str]:
    """Every setting that cannot work, as far as that is known before the model is loaded."""
    problems = endpoint_problems(
        args.endpoint,
        side=DRAFT_KEY,
        curve_dir=args.curve_dir,
        insecure_tcp=args.insecure_tcp,
        insecure_flag="--insecure-tcp",
    )
    if "/" in args.model and is_missing(args.model):  # one word may be a name that the hub knows
        problems.append(
            f"--model {args.model}: no such model folder; name one that exists, or a model of the hub"
        )
    for option in ("rows", "rows_after_signal", "prefill_rows"):
        if (value := getattr(args, option)) is not None and value < 1:
            problems.append(f"--{option.replace('_', '-')} {value}: give 1 or more")
    if args.spin_ms is not None and not 0 <= args.spin_ms < math.inf:
        problems.append(f"--spin-ms {args.spin_ms:g}: give 0 or more")
    if args.memory_gb is not None and not 0 < args.memory_gb < math.inf:
        problems.append(f"--memory-gb {args.memory_gb:g}: give more than 0")
    if args.threads < 0:
        problems.append(f"--threads {args.threads}: give 1 or more, or 0 for PyTorch's default")
    if args.cpus:
        problems += cpu_problems("--cpus", args.cpus)
    return problems + trace_problems("--trace", args.trace)
