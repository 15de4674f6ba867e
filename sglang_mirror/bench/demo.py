"""`make demo`: real prompts through mirror, the same draft run serially, and the target alone; one table."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from sglang_mirror.bench.arm_specs import OWN, Setup, parse_arm
from sglang_mirror.bench.arms import Cores
from sglang_mirror.bench.client import payload, stream
from sglang_mirror.bench.experiment import Experiment, Plan
from sglang_mirror.bench.output import Output
from sglang_mirror.bench.pair import ROOT, embedded_pair, held_out
from sglang_mirror.bench.server import Server, ServerError
from sglang_mirror.bench.table import table
from sglang_mirror.bench.tuned import TUNED
from sglang_mirror.bench.workload import HELD_OUT, load_workload
from sglang_mirror.errors import MirrorError

ARMS = ("plain", "serial", "mirror")


def say(text: str, end: str = "\n") -> None:
    sys.stdout.write(text + end)
    sys.stdout.flush()


def show_stream(server: Server, prompt: str, num_tokens: int) -> None:
    """One completion on the terminal as it comes."""
    say(f"\n--- mirror, as it comes ---\n{prompt}", end="")
    for piece in stream(server.url, payload(prompt, num_tokens=num_tokens)):
        say(piece, end="")
    say("\n---\n")


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Start every arm's server, show one completion, run all in turn.

    Raises:
        ServerError: an arm did not run, or not to the end.
    """
    setup = Setup(embedded_pair(), Cores.one_each(), TUNED[OWN])
    plan = Plan(
        arms=tuple(parse_arm(name, setup) for name in ARMS),
        workloads=(load_workload(HELD_OUT, args.prompts),),
        num_tokens=args.tokens,
        repeats=args.repeats,
    )
    say(f"starting {len(ARMS)} servers ...")
    with Experiment(plan, setup, args.out.parent / "logs") as experiment:
        if "mirror" in experiment.servers:
            show_stream(experiment.servers["mirror"], held_out(1)[0].text, args.tokens)
        say(f"{args.prompts} prompts through each, {args.repeats} times, in turn ...")
        output = Output(args.out)
        for found in experiment.results():
            output.add(found, experiment.skipped)
    if experiment.skipped:
        raise ServerError("\n".join(f"{arm}: {reason}" for arm, reason in experiment.skipped.items()))
    return output.results


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=8, help="how many held-out prompts")
    parser.add_argument("--tokens", type=int, default=128, help="new tokens for each")
    parser.add_argument("--repeats", type=int, default=3, help="times each arm runs, interleaved")
    parser.add_argument("--out", type=Path, default=ROOT / "out/demo.json", help="where the JSON goes")
    return parser.parse_args()


def main() -> int:
    """Run the comparison; 0 if every arm's text is the target's own."""
    args = _arguments()
    try:
        results = measure(args)
    except MirrorError as error:
        say(f"demo: {error}")
        return 1
    say("\n" + table(results))
    return 0 if all(entry["text_equal"] == 1.0 for entry in results) else 1


if __name__ == "__main__":
    sys.exit(main())
