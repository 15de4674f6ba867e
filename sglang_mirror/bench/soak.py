"""`make soak` and `make faults`: a mirror server under every kind of request, its text held against plain's.

Clients ask without a pause: greedy requests, whose tokens must be the first of plain decoding's; sampled
ones, which only have to be answered; and some who leave in the middle. With faults the draft is killed, ended
or stopped meanwhile, again and again.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import signal
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil

from sglang_mirror.bench import arms
from sglang_mirror.bench.arm_specs import OWN, Setup, parse_arm
from sglang_mirror.bench.arms import Arm, Cores
from sglang_mirror.bench.client import complete, payload
from sglang_mirror.bench.load import Expected, Load, LoadPlan, Span, expected_of
from sglang_mirror.bench.output import write_results
from sglang_mirror.bench.pair import ROOT, embedded_pair
from sglang_mirror.bench.server import Server, end_on_sigterm
from sglang_mirror.bench.tuned import TUNED
from sglang_mirror.errors import MirrorError

# The first part of the time is not looked at for memory: buffers find their sizes.
WARM_UP_SHARE = 0.1
FAULTS = {"killed": signal.SIGKILL, "ended": signal.SIGTERM, "stopped": signal.SIGSTOP}
STOPPED_S, BETWEEN_FAULTS_S, BACK_WITHIN_S, LET_GO_WITHIN_S = 2.5, 4.0, 60.0, 10.0
SAYS_EVERY_S = 10.0
# As a user would serve: with the prefix cache, and with prompts in chunks.
AS_SERVED = ("--chunked-prefill-size", "128", "--skip-server-warmup", "--log-level", "warning")
# Left to itself it gives speculation up for a small target's batches, and then there is little to see.
ALWAYS = "mirror:speculate=always"


def soak(server: Server, expected: Expected, plan: LoadPlan) -> dict[str, Any]:
    """Load a server that has its draft.

    Returns:
        `Load.counts`; `rss_mb` of its processes together, after the warm-up, half-way and at the end;
        `faults`, each with what was struck and the seconds until mirror was back; `held`: requests that the
        draft still holds when all have ended; `mirror`: what the server reports.
    """
    load, span = Load(server.url, expected, plan), Span(plan.minutes * 60)
    memory: list[tuple[float, float]] = []
    struck: list[dict[str, Any]] = []
    with ThreadPoolExecutor() as pool, span:
        others = [pool.submit(_watch, server, load, span, memory)]
        if plan.faults:
            others.append(pool.submit(_strike, server, plan, span, struck))
        load.run(span)
        for each in others:
            each.result()
    return {
        "minutes": plan.minutes,
        "clients": plan.clients,
        **load.counts,
        "rss_mb": _over_time(memory, span.seconds),
        "faults": struck,
        "held": _held(server),
        "mirror": _report(server),
    }


def _watch(server: Server, load: Load, span: Span, memory: list[tuple[float, float]]) -> None:
    """Note the memory every second, and say how far it is."""
    said_s = 0.0
    while not span.over:
        used = 0.0
        for process in server.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                used += process.memory_info().rss / 2**20
        memory.append((span.passed_s, used))
        if span.passed_s - said_s > SAYS_EVERY_S:
            said_s = span.passed_s
            left = span.seconds - said_s
            sys.stderr.write(f"{left:.0f} s to go: {dict(load.counts)}, {used:.0f} MB\n")
        span.wait(1.0)


def _over_time(memory: Sequence[tuple[float, float]], seconds: float) -> dict[str, float]:
    """Medians of a tenth of the time each: after the warm-up, half-way, at the end."""
    found = {}
    for name, at in (("start", WARM_UP_SHARE), ("middle", 0.5), ("end", 1.0 - WARM_UP_SHARE)):
        part = [used for second, used in memory if at <= second / seconds <= at + WARM_UP_SHARE]
        found[name] = round(statistics.median_high(part or [used for _, used in memory]), 1)
    return found


def _strike(server: Server, plan: LoadPlan, span: Span, struck: list[dict[str, Any]]) -> None:
    """The faults in turn, each once mirror is back from the one before."""
    for fault in itertools.cycle(plan.faults):
        span.wait(BETWEEN_FAULTS_S)
        if span.over:
            return
        before, at_s = _report(server), span.passed_s
        os.kill(before["draft_pid"], FAULTS[fault])
        if fault == "stopped":
            time.sleep(STOPPED_S)
            os.kill(before["draft_pid"], signal.SIGCONT)
        connected = (
            after["draft"] == "ready" and after["connections"] > before["connections"]
            for after in _reports(server, BACK_WITHIN_S)
        )
        back_s = round(span.passed_s - at_s, 2) if any(connected) else None
        struck.append({"fault": fault, "at_s": round(at_s, 1), "back_s": back_s})


def _reports(server: Server, seconds: float) -> Iterator[dict[str, Any]]:
    """What the server says of mirror, again and again for so long."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        yield _report(server)
        time.sleep(0.1)


def _report(server: Server) -> dict[str, Any]:
    found: dict[str, Any] = server.info()["mirror"]
    return {**found, "draft_model": found["draft_model"].replace(f"{ROOT}/", "")}


def _held(server: Server) -> int:
    """Requests that the draft holds; those of clients who have left end a little later.

    SGLang does not tell of requests that end at their prefill: the next prefill lets them go.
    """
    complete(server.url, payload("end", num_tokens=4))
    held = 0
    for found in _reports(server, LET_GO_WITHIN_S):
        held = found["requests"]
        if not held:
            break
    return held


def failures(found: Mapping[str, Any]) -> list[str]:
    """What must not be in a soak's result."""
    wrong = [f"{name}: {found[name]}" for name in ("lost", "wrong_text", "held") if found[name]]
    return wrong + [f"not back: {fault}" for fault in found["faults"] if fault["back_s"] is None]


def _server(arm: Arm, setup: Setup, logs: Path) -> Server:
    return arms.server(arm, setup.pair, setup.cores, logs / f"soak-{arm.name}.log", common=AS_SERVED)


def main() -> int:
    """Start plain decoding and mirror, and write what came of it; 1 if a request was lost or wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--minutes", type=float, default=10.0, help="of load (default: %(default)s)")
    add("--clients", type=int, default=8, help="that ask at the same time (default: %(default)s)")
    add("--seed", type=int, default=0, help="of what is asked (default: %(default)s)")
    add("--arm", default=ALWAYS, help="mirror or a variant of it (default: %(default)s)")
    add("--faults", action="store_true", help="kill, end and stop the draft meanwhile")
    add("--json", type=Path, default=Path("out/soak.json"), help="where the result goes")
    args = parser.parse_args()
    plan = LoadPlan(args.minutes, args.clients, args.seed, tuple(FAULTS) if args.faults else ())
    end_on_sigterm()
    try:
        setup = Setup(embedded_pair(), Cores.one_each(), TUNED[OWN])
        logs = args.json.parent / "logs"
        with _server(parse_arm("plain", setup), setup, logs) as plain:
            expected = expected_of(plain.wait())
        with _server(parse_arm(args.arm, setup), setup, logs) as mirror:
            found = soak(mirror.wait().wait_for_draft(), expected, plan)
    except MirrorError as error:
        sys.stderr.write(f"soak: {error}\n")
        return 2
    write_results(args.json, [], arm=args.arm, **found)
    wrong = failures(found)
    kept = {name: found[name] for name in ("requests", "lost", "wrong_text", "rss_mb", "held")}
    sys.stdout.write(f"{kept}\n" + "".join(f"soak: {each}\n" for each in wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
