"""`sglang-mirror bench`: run a comparison, compare two of them, and make the page that shows one."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from sglang_mirror.errors import needing

ARMS = ("plain", "plain:cores=all", "standalone", "eagle3", "serial", "mirror")


def add_parser(commands: Any) -> None:
    """Add the command to the `sglang-mirror` parser."""
    bench = commands.add_parser("bench", help="compare ways of decoding, side by side")
    kinds = bench.add_subparsers(dest="bench", required=True)
    _add_run(kinds.add_parser("run", help="measure arms in one run, interleaved"))
    compare = kinds.add_parser("compare", help="two runs of the same arms, figure by figure")
    compare.add_argument("before", type=Path)
    compare.add_argument("after", type=Path)
    compare.set_defaults(run=_compare)
    report = kinds.add_parser("report", help="the page and the tables of a run")
    report.add_argument("results", type=Path, help="what `bench run --json` wrote")
    report.add_argument("--html", type=Path, help="the page (default: beside the results)")
    report.add_argument("--markdown", type=Path, help="the tables, as Markdown")
    report.set_defaults(run=_report)


def _add_run(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    usual = " ".join(ARMS)
    add("--arms", nargs="+", default=ARMS, metavar="ARM", help=f"NAME[:key=value,...] (default: {usual})")
    add("--workload", nargs="+", default=["heldout-code"], help="heldout-code, or a JSONL file of prompts")
    add("--questions", type=int, default=8, help="questions of each task (default: %(default)s)")
    add("--tokens", type=int, default=128, help="most new tokens in a turn (default: %(default)s)")
    add("--temperature", type=float, nargs="+", default=[0.0], help="of sampling (default: 0)")
    add("--concurrency", type=int, nargs="+", default=[1], help="questions at once (default: 1)")
    add("--repeats", type=int, default=3, help="times each arm runs (default: %(default)s)")
    add("--target", type=Path, help="the target's folder (default: the embedded pair's)")
    add("--draft", type=Path, help="the draft's folder (default: the embedded pair's)")
    add("--streaming", type=Path, help="folder of a streaming draft, for arms with draft=streaming")
    add("--eagle3", type=Path, help="folder of an EAGLE3 head for the target (default: the embedded one's)")
    add(
        "--enlarge",
        nargs="+",
        default=["own"],
        metavar="SHAPE",
        help="serve the target in these shapes, one after another: `own`, TARGET such as 0.25b or qwen3-14b, "
        "or TARGET+DRAFT; an EAGLE3 head takes the target's (default: own)",
    )
    add("--together", type=int, metavar="N", help="most servers at once (default: all)")
    add(
        "--reference",
        nargs="+",
        metavar="ARM",
        help="arms that all others are measured beside, in whatever groups (default: the first arm)",
    )
    add("--start-timeout", type=float, default=180.0, metavar="S", help="of a server (default: %(default)s)")
    add("--dtype", default="float32", help="of the target (default: %(default)s)")
    add("--device", default="cpu", help="of the target: cpu or cuda (default: %(default)s)")
    add("--server-flags", default="", metavar="FLAGS", help="further flags of every server, in one string")
    add("--gamma", type=int, help="draft tokens in a window of mirror and serial")
    add(
        "--timeline",
        action="store_true",
        help="also record one request of the first mirror arm, step by step",
    )
    add("--bench-serving", action="store_true", help="also ask every server by SGLang's own client")
    add("--json", type=Path, default=Path("out/bench.json"), help="where it goes (default: %(default)s)")
    add("--resume", action="store_true", help="keep what that file has, and measure what it lacks")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    """Measure; 0 if every arm ran and, at temperature 0 in float32, every text is plain decoding's."""
    with needing("bench"):
        from sglang_mirror.bench.measuring import measured  # noqa: PLC0415
        from sglang_mirror.bench.table import cells, table  # noqa: PLC0415
    output = measured(args)
    for title, entries in cells(output.results):
        _say(f"\n{title}\n{table(entries)}")
    for name, reason in output.skipped.items():
        _say(f"\n{name} did not run: {reason}")
    exact = args.dtype == "float32"
    greedy = [entry for entry in output.results if entry["temperature"] == 0 and exact]
    same = all(entry["text_equal"] in (None, 1.0) for entry in greedy)
    return 0 if same and output.results and not output.skipped else 1


def _compare(args: argparse.Namespace) -> int:
    with needing("bench"):
        from sglang_mirror.bench.output import read_results  # noqa: PLC0415
        from sglang_mirror.bench.table import changes  # noqa: PLC0415

    _say(changes(read_results(args.before), read_results(args.after)))
    return 0


def _report(args: argparse.Namespace) -> int:
    with needing("bench"):
        from sglang_mirror.bench.output import read_results  # noqa: PLC0415
        from sglang_mirror.bench.report import html, markdown  # noqa: PLC0415

    content = read_results(args.results)
    page = args.html or args.results.with_suffix(".html")
    page.write_text(html(content), encoding="utf-8")
    _say(f"{page}")
    if args.markdown:
        args.markdown.write_text(markdown(content), encoding="utf-8")
    return 0


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
