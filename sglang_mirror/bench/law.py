"""Is the law of sampled text the target's? Sampled tokens against exact probabilities, chi-square.

Tokens are grouped by what was known before they were drawn: where their window came from (a branch that hit,
a fresh rollout, or none) and their node in it. Grouping by what was drawn, accepted or not, would be biased.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sglang_mirror.bench.arm_specs import Setup, parse_arm
from sglang_mirror.bench.arms import Arm, Cores, Pair, plain, server
from sglang_mirror.bench.chi_square import (
    BINS,
    FALSE_ALARM,
    Evidence,
    Ints,
    evidence,
    quantile_test,
    report,
    slice_test,
)
from sglang_mirror.bench.client import complete_all
from sglang_mirror.bench.exact import ExactTarget, Sampling, law
from sglang_mirror.bench.output import write_results
from sglang_mirror.bench.pair import ROOT, embedded_pair, embedded_streaming, held_out
from sglang_mirror.errors import MirrorError

logger = logging.getLogger(__name__)

SETTINGS = (
    Sampling("temperature"),
    Sampling("top_k", top_k=8),
    Sampling("top_p", top_p=0.8),
    Sampling("top_k and top_p", top_k=8, top_p=0.8),
)
SLICE = 24
NUM_PROMPTS = 16
NEW_TOKENS = 16
BATCH = 32
SEED = 20261122
PREFILL = "prefill"
# Tokens below which a group's chi-square would not be one: ten in each bin.
MIN_GROUP = 10 * BINS


@dataclass(frozen=True, slots=True)
class Sample:
    """One continuation.

    Attributes:
        prompt: token ids.
        tokens: what was sampled.
        groups: what was known before each of them was drawn.
    """

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    groups: tuple[str, ...]


def read_trace(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The lines of a `--mirror-trace` file by request."""
    steps: dict[str, list[dict[str, Any]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        step = json.loads(line)
        steps.setdefault(step["rid"], []).append(step)
    return steps


def groups_of(prompt_len: int, tokens: Sequence[int], steps: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Where the window of each token came from, and its node in it.

    Raises:
        MirrorError: the trace is not this continuation's.
    """
    groups = [PREFILL] * len(tokens)
    origin = "fresh"  # the first window of a request is never a branch
    for step in steps:
        origin = origin if step["window"] else "none"
        for node, token in enumerate(step["committed"]):
            index = step["committed_len"] + node - prompt_len
            if index >= len(tokens):  # the last step may commit more than was asked for
                break
            if tokens[index] != token:
                raise MirrorError(f"the trace has token {token} where the server answered {tokens[index]}")
            groups[index] = f"{origin}, node {node}"
        origin = "hit" if step["source"] else "fresh"
    return tuple(groups)


def sample(
    url: str,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    count: int,
    concurrency: int,
    trace: Path | None,
) -> list[Sample]:
    """`count` continuations of the prompts in turn."""
    label = uuid.uuid4().hex[:8]  # a trace may be older than this run
    bodies: list[dict[str, Any]] = [
        {
            "rid": f"law-{label}-{index}",
            "input_ids": list(prompt),
            "sampling_params": {"max_new_tokens": NEW_TOKENS, "ignore_eos": True, **sampling.parameters()},
        }
        for index, prompt in zip(range(count), itertools.cycle(prompts), strict=False)
    ]
    answers = complete_all(url, bodies, concurrency=concurrency)
    steps = read_trace(trace) if trace else {}
    samples = []
    for body, answer in zip(bodies, answers, strict=True):
        prompt = body["input_ids"]
        groups = groups_of(len(prompt), answer.token_ids, steps.get(body["rid"], []))
        samples.append(Sample(tuple(prompt), answer.token_ids, groups))
    return samples


def common_tokens(target: ExactTarget, prompts: Sequence[Sequence[int]], sampling: Sampling) -> Ints:
    """The slice: the tokens that are most probable on average after the prompts. Chosen before sampling."""
    mean = np.mean([law(target.next_logits([[*p, 0]], len(p) - 1)[0], sampling) for p in prompts], axis=0)[0]
    return np.argsort(-mean, kind="stable")[:SLICE]


def weigh(
    target: ExactTarget,
    samples: Sequence[Sample],
    sampling: Sampling,
    slice_tokens: Ints,
    *,
    jointly: bool = True,
) -> dict[str, Evidence]:
    """Evidence by group, from the exact law of every sampled token in its context."""
    rng = np.random.default_rng(SEED)
    parts: dict[str, list[Evidence]] = {}
    for batch in _alike(samples):
        texts = [[*each.prompt, *each.tokens] for each in batch]
        logits = target.next_logits(texts, len(batch[0].prompt) - 1)
        tokens = np.array([each.tokens for each in batch]).ravel()
        groups = np.array([each.groups for each in batch]).ravel()
        probs = law(logits.flatten(0, 1), sampling, jointly=jointly)
        found = evidence(probs, tokens, slice_tokens, rng)
        for group in np.unique(groups):
            parts.setdefault(str(group), []).append(found.of(groups == group))
    return {group: Evidence.joined(found) for group, found in sorted(parts.items())}


def _alike(samples: Sequence[Sample]) -> Iterator[list[Sample]]:
    """Batches of samples with the same prompt and so the same shape."""
    for _, same in itertools.groupby(sorted(samples, key=lambda each: each.prompt), lambda each: each.prompt):
        rest = list(same)
        for start in range(0, len(rest), BATCH):
            yield rest[start : start + BATCH]


def judge(groups: Mapping[str, Evidence]) -> dict[str, Any]:
    """Reports of every group, of the small ones as one, and of all windows' tokens together."""
    verified = [found for group, found in groups.items() if group != PREFILL]
    judged = {"all windows": Evidence.joined(verified)} if verified else {}
    judged |= {group: found for group, found in groups.items() if len(found) >= MIN_GROUP}
    small = [found for found in groups.values() if len(found) < MIN_GROUP]
    if small:
        judged["small groups"] = Evidence.joined(small)
    return {group: report(found) for group, found in judged.items()}


def smallest_p(judged: Mapping[str, Any]) -> tuple[float, int]:
    """The smallest p-value of all tests, and how many tests there were."""
    values = [result[test]["p_value"] for result in judged.values() for test in ("slice", "quantile")]
    return min(values), len(values)


def run(
    pair: Pair,
    *,
    settings: Sequence[Sampling],
    num_tokens: int,
    concurrency: int,
    arms: Sequence[Arm],
    logs: Path,
    seed: int = SEED,
) -> Iterator[dict[str, Any]]:
    """Sample every setting from every arm's server; one result a setting and arm."""
    target = ExactTarget(pair.target)
    prompts = [target.tokens_of(prompt.text) for prompt in held_out(NUM_PROMPTS)]
    count = -(-num_tokens // (NEW_TOKENS - 1))  # the first token of each comes from the prefill
    for arm in arms:
        trace = logs / f"law-{arm.name}.jsonl"
        trace.unlink(missing_ok=True)
        traced = arm.name != "plain"
        extra = ["--random-seed", str(seed), *(["--mirror-trace", str(trace)] if traced else [])]
        seeded = Arm(arm.name, (*arm.flags, *extra))
        with server(seeded, pair, Cores.one_each(), logs / f"law-{arm.name}.log") as started:
            started.wait().wait_for_draft()
            for setting in settings:
                samples = sample(
                    started.url,
                    prompts,
                    setting,
                    count=count,
                    concurrency=concurrency,
                    trace=trace if traced else None,
                )
                yield judged_setting(target, arm.name, setting, samples, prompts)


def judged_setting(
    target: ExactTarget,
    arm: str,
    setting: Sampling,
    samples: Sequence[Sample],
    prompts: Sequence[Sequence[int]],
) -> dict[str, Any]:
    """The result of one setting; with both filters, also how badly the other order of filtering fits."""
    slice_tokens = common_tokens(target, prompts, setting)
    judged = judge(weigh(target, samples, setting, slice_tokens))
    least, tests = smallest_p(judged)
    result = {
        "arm": arm,
        "setting": setting.name,
        "parameters": setting.parameters(),
        "slice_tokens": slice_tokens.tolist(),
        "smallest_p": least,
        "num_tests": tests,
        "holds": least > FALSE_ALARM / tests,
        "groups": judged,
    }
    if "top_k" in setting.parameters() and setting.top_p < 1:
        other = Evidence.joined(list(weigh(target, samples, setting, slice_tokens, jointly=False).values()))
        result["filtered_in_turn_p"] = min(slice_test(other).p_value, quantile_test(other).p_value)
    logger.info("%s", {key: value for key, value in result.items() if key not in ("groups", "slice_tokens")})
    return result


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=20_000, help="tokens a setting and arm")
    names = [setting.name for setting in SETTINGS]
    parser.add_argument("--settings", nargs="+", default=names, choices=names, help="of sampling")
    parser.add_argument("--seed", type=int, default=SEED, help="of the servers")
    parser.add_argument("--concurrency", type=int, default=8, help="requests at once")
    parser.add_argument("--arms", nargs="+", default=["mirror"], help="beside plain, as `bench run` has them")
    parser.add_argument("--out", type=Path, default=ROOT / "out/law.json", help="where the JSON goes")
    return parser.parse_args()


def main() -> int:
    """Run it; 0 if no test speaks against the law."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    args = _arguments()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    pair = embedded_pair()
    setup = Setup(pair, Cores.one_each(), streaming=embedded_streaming())
    try:
        arms = [plain(), *(parse_arm(text, setup) for text in args.arms)]
        for arm in arms:
            if arm.missing:
                raise MirrorError(f"--arms {arm.name}: {arm.missing}")
        results = list(
            run(
                pair,
                settings=[setting for setting in SETTINGS if setting.name in args.settings],
                seed=args.seed,
                num_tokens=args.samples,
                concurrency=args.concurrency,
                arms=arms,
                logs=args.out.parent,
            )
        )
    except MirrorError as error:
        logger.error("law: %s", error)
        return 1
    write_results(args.out, results)
    return int(not all(result["holds"] for result in results))


if __name__ == "__main__":
    sys.exit(main())
