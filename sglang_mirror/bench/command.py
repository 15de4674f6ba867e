"""`sglang-mirror bench`: run a comparison, compare two of them, and make the page that shows one."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sglang_mirror.errors import MirrorError

if TYPE_CHECKING:
    from sglang_mirror.bench.arm_specs import Setup
    from sglang_mirror.bench.arms import Pair
    from sglang_mirror.bench.experiment import Plan

ARMS = ("plain", "plain:cores=all", "standalone", "eagle3", "serial", "mirror")
GAMMA = 5
LEAST = {"questions": 1, "tokens": 1, "repeats": 1, "concurrency": 1, "temperature": 0}


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
    add("--arms", nargs="+", default=ARMS, metavar="ARM", help="NAME or NAME:key=value,... (default: all)")
    add("--workload", nargs="+", default=["heldout-code"], help="heldout-code, or a JSONL file of prompts")
    add("--questions", type=int, default=8, help="questions of each task (default: %(default)s)")
    add("--tokens", type=int, default=128, help="most new tokens in a turn (default: %(default)s)")
    add("--temperature", type=float, nargs="+", default=[0.0])
    add("--concurrency", type=int, nargs="+", default=[1], help="questions at once")
    add("--repeats", type=int, default=3, help="times each arm runs (default: %(default)s)")
    add("--target", type=Path, help="the target's folder (default: the embedded pair's)")
    add("--draft", type=Path, help="the draft's folder (default: the embedded pair's)")
    add("--eagle3", type=Path, help="folder of an EAGLE3 head for the target (default: the embedded one's)")
    add("--enlarge", metavar="SHAPE", help="serve the target in a larger shape, such as 0.25b or qwen3-14b")
    add("--enlarge-draft", metavar="SHAPE", help="and the draft")
    add("--dtype", default="float32", help="of the target (default: %(default)s)")
    add("--gamma", type=int, help="draft tokens in a window of mirror and serial")
    add(
        "--timeline",
        action="store_true",
        help="also record one request of the first mirror arm, step by step",
    )
    add("--json", type=Path, default=Path("out/bench.json"), help="where it goes (default: %(default)s)")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    """Measure; 0 if every arm ran and, at temperature 0 in float32, every text is plain decoding's."""
    try:
        from tqdm import tqdm  # noqa: PLC0415 - what only a comparison needs is an extra

        from sglang_mirror.bench.chat import Asker  # noqa: PLC0415
        from sglang_mirror.bench.experiment import Experiment  # noqa: PLC0415
        from sglang_mirror.bench.output import write_results  # noqa: PLC0415
        from sglang_mirror.bench.table import cells, table  # noqa: PLC0415
        from sglang_mirror.bench.timeline import record  # noqa: PLC0415
    except ImportError as error:
        raise MirrorError(f"bench needs {error.name}: pip install 'sglang-mirror[bench]'") from error
    logging.getLogger("httpx").setLevel(logging.WARNING)
    plan, setup = _planned(args)
    results: list[dict[str, Any]] = []
    _say(f"starting {len(plan.arms)} servers ...")
    with Experiment(plan, setup, args.json.parent / "logs") as experiment:
        total = plan.num_turns * len(experiment.servers)
        with tqdm(total=total, unit="turn", mininterval=1.0) as bar:

            def tick(arm: str) -> None:
                bar.set_description(arm, refresh=False)
                bar.update()

            for found in experiment.results(tick):
                results += found
                write_results(args.json, results, skipped=experiment.skipped)
    if args.timeline and (arm := next((arm for arm in plan.arms if arm.name.startswith("mirror")), None)):
        asker = Asker(setup.pair.target, num_tokens=args.tokens)
        timeline = record(arm, setup, asker, plan.workloads[0].questions[0], args.json.parent / "logs")
        write_results(args.json, results, skipped=experiment.skipped, timeline=timeline)
    for title, entries in cells(results):
        _say(f"\n{title}\n{table(entries)}")
    for name, reason in experiment.skipped.items():
        _say(f"\n{name} did not run: {reason}")
    exact = args.dtype == "float32"
    same = all(entry["text_equal"] in (None, 1.0) for entry in results if entry["temperature"] == 0 and exact)
    return 0 if same and results and not experiment.skipped else 1


def _planned(args: argparse.Namespace) -> tuple[Plan, Setup]:
    """What the command line asks for; everything that can be wrong in it is found before a server starts."""
    from sglang_mirror.bench.arm_specs import Setup, parse_arm  # noqa: PLC0415
    from sglang_mirror.bench.arms import Cores, Pair  # noqa: PLC0415
    from sglang_mirror.bench.experiment import Plan  # noqa: PLC0415
    from sglang_mirror.bench.pair import EMBEDDED, embedded_head, embedded_pair  # noqa: PLC0415
    from sglang_mirror.bench.pair import GAMMA as EMBEDDED_GAMMA  # noqa: PLC0415
    from sglang_mirror.bench.workload import load_workload  # noqa: PLC0415

    for name, least in LEAST.items():
        given = getattr(args, name)
        for value in given if isinstance(given, list) else [given]:
            if value < least:
                raise MirrorError(f"--{name} {value}: must be at least {least}")
    for path in filter(None, (args.target, args.draft, args.eagle3)):
        if not (path / "config.json").is_file():
            raise MirrorError(f"{path}: no model folder, it has no config.json")
    embedded = embedded_pair(args.dtype)
    pair = Pair(args.target or embedded.target, args.draft or embedded.draft, args.dtype)
    ours = pair == embedded
    pair = _enlarged(pair, args)
    setup = Setup(
        pair=pair,
        cores=Cores.one_each(),
        gamma=args.gamma or (EMBEDDED_GAMMA if ours else GAMMA),
        mirror=EMBEDDED if ours else {},
        eagle3=args.eagle3 or (embedded_head() if ours else None),
    )
    plan = Plan(
        arms=tuple(parse_arm(text, setup) for text in dict.fromkeys(args.arms)),
        workloads=tuple(load_workload(source, args.questions) for source in args.workload),
        temperatures=tuple(args.temperature),
        concurrencies=tuple(args.concurrency),
        num_tokens=args.tokens,
        repeats=args.repeats,
    )
    return plan, setup


def _enlarged(pair: Pair, args: argparse.Namespace) -> Pair:
    """The pair in the shapes that were asked for; their folders lie beside the results."""
    from sglang_mirror.upscale.folder import make_folder  # noqa: PLC0415
    from sglang_mirror.upscale.shape import parse_shape  # noqa: PLC0415

    folder = args.json.parent / "enlarged"
    for part, shape in (("target", args.enlarge), ("draft", args.enlarge_draft)):
        if shape:
            made = make_folder(getattr(pair, part), parse_shape(shape), folder / f"{part}-{shape}")
            pair = dataclasses.replace(pair, **{part: made})  # type: ignore[arg-type]  # two paths
    return pair


def _compare(args: argparse.Namespace) -> int:
    from sglang_mirror.bench.output import read_results  # noqa: PLC0415
    from sglang_mirror.bench.table import changes  # noqa: PLC0415

    _say(changes(read_results(args.before), read_results(args.after)))
    return 0


def _report(args: argparse.Namespace) -> int:
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
