"""Is the text the plain server's, token for token? One mirror server a root source, beside a plain one."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sglang_mirror.bench.arms import Arm, Cores, Pair, mirror, plain, server
from sglang_mirror.bench.client import Completion, complete_all, payload
from sglang_mirror.bench.output import write_results
from sglang_mirror.bench.pair import ROOT, embedded_pair, held_out
from sglang_mirror.errors import MirrorError

logger = logging.getLogger(__name__)

GAMMA = 5
ROOTS = ("auto", "exit", "draft", "union", "none")


@dataclass(frozen=True, slots=True)
class Divergence:
    """Two answers to one prompt that are not the same.

    Attributes:
        prompt: its index.
        position: the first output token that differs.
    """

    prompt: int
    position: int


def first_difference(ours: Sequence[int], theirs: Sequence[int]) -> int | None:
    """Index of the first token that differs or is missing; None if there is none."""
    for position, (one, other) in enumerate(zip(ours, theirs, strict=False)):
        if one != other:
            return position
    return None if len(ours) == len(theirs) else min(len(ours), len(theirs))


def divergences(answers: Sequence[Completion], reference: Sequence[Completion]) -> list[Divergence]:
    """Every prompt whose answer is not the reference's."""
    return [
        Divergence(index, position)
        for index, (ours, theirs) in enumerate(zip(answers, reference, strict=True))
        if (position := first_difference(ours.token_ids, theirs.token_ids)) is not None
    ]


def comparison(answers: Sequence[Completion], reference: Sequence[Completion]) -> dict[str, Any]:
    """The figures of one run against plain decoding's."""
    found = divergences(answers, reference)
    compared = sum(len(answer.token_ids) for answer in reference)
    agreed = sum(
        len(answer.token_ids)
        if (position := first_difference(answer.token_ids, wanted.token_ids)) is None
        else position
        for answer, wanted in zip(answers, reference, strict=True)
    )
    return {
        "num_prompts": len(reference),
        "num_tokens": compared,
        "identical": len(reference) - len(found),
        "identical_share": 1 - len(found) / len(reference),
        "tokens_before_divergence_share": agreed / compared,
        "divergences": [{"prompt": each.prompt, "position": each.position} for each in found],
    }


def _grown(before: dict[str, Any] | None, after: dict[str, Any] | None) -> dict[str, Any]:
    """What mirror's counters gained: proof that it was mirror that answered."""
    if before is None or after is None:
        return {}
    steps = after["steps"] - before["steps"]
    hits = sum(after["hits"].values()) - sum(before["hits"].values())
    return {
        "steps": steps,
        "plain_steps": after["plain_steps"] - before["plain_steps"],
        "accept_len": (after["committed"] - before["committed"]) / steps if steps else None,
        "hit_rate": hits / steps if steps else None,
    }


def run(
    pair: Pair,
    *,
    prompts: Sequence[str],
    num_tokens: int,
    arms: Sequence[Arm],
    concurrency: Sequence[int],
    logs: Path,
) -> Iterator[dict[str, Any]]:
    """Compare each arm with plain decoding at concurrency 1, and plain decoding with itself.

    Yields:
        one result an arm and concurrency.
    """
    bodies = [payload(prompt, num_tokens=num_tokens) for prompt in prompts]
    cores = Cores.one_each()

    def answers_of(arm: Arm) -> Iterator[tuple[int, list[Completion], dict[str, Any]]]:
        with server(arm, pair, cores, logs / f"identity-{pair.dtype}-{arm.name}.log") as started:
            started.wait().wait_for_draft()
            for width in concurrency:
                before = started.info().get("mirror")
                answers = complete_all(started.url, bodies, concurrency=width)
                yield width, answers, _grown(before, started.info().get("mirror"))

    reference: list[Completion] = []
    for arm in (plain(), *arms):
        for width, answers, counted in answers_of(arm):
            reference = reference or answers
            result: dict[str, Any] = {"arm": arm.name, "dtype": pair.dtype, "concurrency": width}
            result |= {**comparison(answers, reference), **counted}
            logger.info("%s", json.dumps({**result, "divergences": len(result["divergences"])}))
            yield result


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=60, help="how many held-out prompts")
    parser.add_argument("--tokens", type=int, default=128, help="new tokens for each")
    parser.add_argument("--roots", default=",".join(ROOTS), help="root sources, separated by commas")
    parser.add_argument("--concurrency", default="1,8", help="requests at once; the first is the reference's")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--gamma", type=int, default=GAMMA, help="draft tokens in a window")
    parser.add_argument("--out", type=Path, default=ROOT / "out/identity.json", help="where the JSON goes")
    return parser.parse_args()


def main() -> int:
    """Run it; 0 if every text is plain decoding's, or if the dtype is one in which ties may flip."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    args = _arguments()
    pair, cores = embedded_pair(args.dtype), Cores.one_each()
    try:
        prompts = [prompt.text for prompt in held_out(args.prompts)]
        results = list(
            run(
                pair,
                prompts=prompts,
                num_tokens=args.tokens,
                arms=[
                    mirror(pair, cores, gamma=args.gamma, name=f"mirror:roots={roots}", roots=roots)
                    for roots in args.roots.split(",")
                ],
                concurrency=[int(width) for width in args.concurrency.split(",")],
                logs=args.out.parent,
            )
        )
    except MirrorError as error:
        logger.error("identity: %s", error)
        return 1
    write_results(args.out, results)
    return int(args.dtype == "float32" and any(result["divergences"] for result in results))


if __name__ == "__main__":
    sys.exit(main())
