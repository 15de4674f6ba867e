"""`make demo`: real prompts through mirror, the same draft run serially, and the target alone; one table."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sglang_mirror.bench.arms import Arm, Cores, mirror, plain, plain_on_all_cores, serial, server
from sglang_mirror.bench.client import Completion, complete_all, payload, stream
from sglang_mirror.bench.measure import Run, result
from sglang_mirror.bench.pair import ROOT, embedded_pair, held_out
from sglang_mirror.bench.provenance import provenance
from sglang_mirror.bench.server import Server
from sglang_mirror.errors import MirrorError

GAMMA = 8
WARM_UP_TURNS = 2
# The embedded target's exit is trained at half depth: a layer later it knows more, too late for a rollout.
EMBEDDED: dict[str, Any] = {"exit_layer": 4, "root_budget": 16}


def say(text: str, end: str = "\n") -> None:
    sys.stdout.write(text + end)
    sys.stdout.flush()


def run_once(
    servers: dict[str, Server], bodies: Sequence[dict[str, Any]], concurrency: int, *, first: int
) -> dict[str, Run]:
    """All prompts once through every server, a few through each in turn, so that all meet the same host.

    Args:
        servers: by arm.
        bodies: the requests.
        concurrency: requests at once, and prompts a turn.
        first: which arm begins; the next turn begins with the next.
    """
    before = {name: server_.info().get("mirror") for name, server_ in servers.items()}
    completions: dict[str, list[Completion]] = {name: [] for name in servers}
    seconds = dict.fromkeys(servers, 0.0)
    names = list(servers)
    for turn, start in enumerate(range(0, len(bodies), concurrency)):
        offset = (first + turn) % len(names)
        for name in names[offset:] + names[:offset]:
            began = time.perf_counter()
            some = bodies[start : start + concurrency]
            completions[name] += complete_all(servers[name].url, some, concurrency=concurrency)
            seconds[name] += time.perf_counter() - began
    return {
        name: Run(tuple(completions[name]), seconds[name], before[name], server_.info().get("mirror"))
        for name, server_ in servers.items()
    }


def interleave(
    servers: dict[str, Server], bodies: Sequence[dict[str, Any]], *, repeats: int, concurrency: int
) -> dict[str, list[Run]]:
    """Every arm through all prompts, in turn, `repeats` times; the first turns before that do not count."""
    say("warming up ...")
    run_once(servers, bodies[: WARM_UP_TURNS * concurrency], concurrency, first=0)
    runs: dict[str, list[Run]] = {name: [] for name in servers}
    for repeat in range(1, repeats + 1):
        for name, run in run_once(servers, bodies, concurrency, first=repeat).items():
            say(f"  repeat {repeat}  {name:16} {run.tokens_per_s:7.1f} tokens/s")
            runs[name].append(run)
    return runs


def show_stream(server_: Server, prompt: str, num_tokens: int) -> None:
    """One completion on the terminal as it comes."""
    say(f"\n--- mirror, as it comes ---\n{prompt}", end="")
    for piece in stream(server_.url, payload(prompt, num_tokens=num_tokens)):
        say(piece, end="")
    say("\n---\n")


def table(results: Sequence[dict[str, Any]]) -> str:
    """The results as one text table."""
    head = ("arm", "tokens/s", "speedup", "accept", "hits", "exit", "draft", "hidden", "same text")
    rows = [head]
    for entry in results:
        hits = entry["hit_rate"] or {}
        rows.append(
            (
                entry["arm"],
                f"{entry['tokens_per_s']['median']:.1f}",
                f"{entry['speedup']['median']:.2f}x",
                f"{entry['accept_len']:.2f}",
                *(f"{hits[key]:.2f}" if hits else "-" for key in ("all", "exit", "draft")),
                f"{entry['hidden_fraction']:.2f}" if entry["hidden_fraction"] is not None else "-",
                "yes" if entry["text_equal"] == 1.0 else f"no ({entry['text_equal']:.0%})",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
    )


def compare(arms: Sequence[Arm], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Start every arm's server, run them in turn, and make their results; the first arm is plain decoding."""
    prompts = [prompt.text for prompt in held_out(args.prompts)]
    bodies = [payload(text, num_tokens=args.tokens, temperature=args.temperature) for text in prompts]
    cores = Cores.one_each()
    with contextlib.ExitStack() as stack:
        servers = {}
        for arm in arms:
            log = args.out.parent / f"{args.out.stem}-{arm.name.replace(':', '-')}.log"
            servers[arm.name] = stack.enter_context(server(arm, args.pair, cores, log))
        say(f"starting {len(servers)} servers ...")
        for name, started in servers.items():
            started.wait()
            say(f"  {name} serves")
        if "mirror" in servers:
            show_stream(servers["mirror"], prompts[0], args.tokens)
        runs = interleave(servers, bodies, repeats=args.repeats, concurrency=args.concurrency)
    return [
        result(
            arm.name,
            runs[arm.name],
            runs[arms[0].name],
            workload="heldout-code",
            temperature=args.temperature,
            concurrency=args.concurrency,
            command=servers[arm.name].command_line.replace(str(ROOT) + "/", ""),
        )
        for arm in arms
    ]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=8, help="how many held-out prompts")
    parser.add_argument("--tokens", type=int, default=128, help="new tokens for each")
    parser.add_argument("--repeats", type=int, default=3, help="times each arm runs, interleaved")
    parser.add_argument("--concurrency", type=int, default=1, help="requests at once")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--gamma", type=int, default=GAMMA, help="draft tokens in a window")
    parser.add_argument(
        "--roots",
        nargs="+",
        default=["union"],
        choices=("exit", "draft", "union"),
        help="sources of roots; each after the first is an arm more",
    )
    parser.add_argument("--all-cores", action="store_true", help="also plain decoding with every core")
    parser.add_argument("--out", type=Path, default=ROOT / "out/demo.json", help="where the JSON goes")
    args = parser.parse_args()
    args.pair = embedded_pair()
    return args


def main() -> int:
    """Run the comparison; 0 if every arm's text at temperature 0 is the target's own."""
    args = _arguments()
    cores = Cores.one_each()
    arms = [plain(), serial(args.pair, cores, gamma=args.gamma)]
    for roots in dict.fromkeys(args.roots):
        name = "mirror" if roots == args.roots[0] else f"mirror:roots={roots}"
        arms.append(mirror(args.pair, cores, gamma=args.gamma, name=name, roots=roots, **EMBEDDED))
    if args.all_cores:
        arms.append(plain_on_all_cores())
    try:
        results = compare(arms, args)
    except MirrorError as error:
        say(f"demo: {error}")
        return 1
    args.out.parent.mkdir(parents=True, exist_ok=True)
    content = {"schema": 1, "provenance": provenance(), "results": results}
    args.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    say("\n" + table(results))
    same = all(entry["text_equal"] == 1.0 for entry in results)
    return 0 if same or args.temperature > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
