"""`sglang-mirror bench run`: one group of servers after another, every result written as it comes."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import httpx
from tqdm import tqdm

from sglang_mirror.bench.arm_specs import OWN, Setup
from sglang_mirror.bench.arms import Arm
from sglang_mirror.bench.chat import Asker
from sglang_mirror.bench.experiment import Experiment, Plan, in_one_line
from sglang_mirror.bench.output import Output
from sglang_mirror.bench.planning import planned
from sglang_mirror.bench.server import end_on_sigterm
from sglang_mirror.bench.timeline import record
from sglang_mirror.errors import MirrorError


def measured(args: argparse.Namespace) -> Output:
    """Measure what the command line asks for.

    Raises:
        MirrorError: it cannot be; nothing has been started then.
    """
    logging.getLogger("httpx").setLevel(logging.WARNING)
    plans, logs = planned(args), args.json.parent / "logs"
    output = Output.resumed(args.json) if args.resume else Output(args.json)
    end_on_sigterm()
    ran: list[tuple[Arm, Plan, Setup]] = []
    with tqdm(total=sum(plan.num_laps * len(plan.arms) for plan, _ in plans), unit="lap") as bar:
        for plan, setup in plans:
            names = [arm.name for arm in plan.arms]
            if output.has(plan, setup.target, names):
                bar.update(plan.num_laps * len(names))
                continue
            bar.set_description(f"starting {len(names)} servers")
            with Experiment(plan, setup, logs) as experiment:
                _measure_group(experiment, plan, setup, output, bar, outside=args.bench_serving)
            ran += [(arm, plan, setup) for arm in plan.arms if arm.name in experiment.servers]
    # The last, for it takes one more server: whoever ends us early has the figures.
    if args.timeline and output.timeline is None:
        _record(ran, output, logs)
    return output


def _measure_group(
    experiment: Experiment, plan: Plan, setup: Setup, output: Output, bar: tqdm[None], *, outside: bool
) -> None:
    """Every result of one group; none where the arms that could start have met before."""

    def tick(arm: str) -> None:
        bar.set_description(arm, refresh=False)
        bar.update()

    if not output.has(plan, setup.target, experiment.servers):
        for found in experiment.results(tick):
            output.add(found, _named(experiment.skipped, setup.target))
        if outside:
            output.bench_serving += experiment.by_bench_serving()
    output.add([], _named(experiment.skipped, setup.target))


def _record(ran: Sequence[tuple[Arm, Plan, Setup]], output: Output, logs: Path) -> None:
    """One request of the first mirror arm that ran; what goes wrong is named."""
    mirrors = [each for each in ran if each[0].name.startswith("mirror") and each[0].has_draft]
    if not mirrors:
        return
    arm, plan, setup = mirrors[0]
    asker, question = Asker(setup.pair.target, num_tokens=plan.num_tokens), plan.workloads[0].questions[0]
    try:
        output.timeline = record(arm, setup, asker, question, logs, start_timeout_s=plan.start_timeout_s)
    except (MirrorError, httpx.HTTPError) as error:
        output.skipped[f"the timeline of {arm.name}"] = in_one_line(str(error) or repr(error))
    output.write()


def _named(skipped: dict[str, str], target: str) -> dict[str, str]:
    """Arms that do not run, with the target on which they do not."""
    return skipped if target == OWN else {f"{arm} on {target}": why for arm, why in skipped.items()}
