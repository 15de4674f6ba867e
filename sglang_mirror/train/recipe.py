"""The whole recipe as one resumable command: `python -m sglang_mirror.train.recipe --out examples/models`.

Stages: prepare, pretrain, then for each of the draft's phases own text and distillation, measure, export. A
stage that is done is skipped, and one that was interrupted goes on from its last checkpoint, at most a minute
back. `--start-from` goes on from a pair that was trained before.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

import torch
from transformers import Qwen3ForCausalLM

from sglang_mirror.train import heldout
from sglang_mirror.train.card import card
from sglang_mirror.train.corpus import find_sources
from sglang_mirror.train.distill import PHASES, checkpoint, distill
from sglang_mirror.train.export import export, load_trained
from sglang_mirror.train.generate import own_text
from sglang_mirror.train.optim import Budget
from sglang_mirror.train.prepare import prepare
from sglang_mirror.train.pretrain import pretrain, training_windows
from sglang_mirror.train.report import measure, phase
from sglang_mirror.train.shapes import draft_config, target_config
from sglang_mirror.train.start import phases_so_far
from sglang_mirror.train.tokenizer import load_tokenizer
from sglang_mirror.train.trainer import Plan

logger = logging.getLogger(__name__)

LATER_LR_SCALE = 0.6
OWN_TEXT_TIME = 0.1  # of the draft's, for each phase that wants such text


def train_pair(
    work: Path, *, seconds: float, tokens: int | None, draft_share: float, start: Path | None
) -> None:
    """Trains both; the draft's phases together take `draft_share` of the target's time or tokens.

    What goes on from an earlier pair keeps to `LATER_LR_SCALE` of the learning rates.
    """
    lr_scale = 1.0 if start is None else LATER_LR_SCALE
    pretrain(work, Plan(Budget(tokens=tokens, seconds=seconds), lr_scale=lr_scale), start=start)
    target = load_trained(work / "target.pt", target_config())
    for number, stage in enumerate(PHASES):
        share = draft_share * stage.share
        text = None
        if stage.own_text_share:
            windows, path = training_windows(work, seed=10 + number), work / f"own_text-{number}.pt"
            text = own_text(target, windows, path, seconds=seconds * draft_share * OWN_TEXT_TIME)
        plan = Plan(
            Budget(tokens=tokens and int(tokens * share), seconds=seconds * share),
            tokens_per_step=2048,
            lr_scale=lr_scale * stage.lr_scale,
            decay_share=stage.decay_share,
        )
        distill(work, number, plan, text, start=start)


def ship(work: Path, out: Path, data: Path, start: Path | None) -> None:
    """Measures the pair and writes both folders; cuts the prompts where `data` has none yet."""
    tokenizer = load_tokenizer(work / "tokenizer")
    if not data.exists():
        heldout.write(data, find_sources()[1], tokenizer)
    target = load_trained(work / "target.pt", target_config())
    draft = load_trained(checkpoint(work, len(PHASES) - 1), draft_config())
    report = measure(work, target, draft, tokenizer, heldout.read(data))
    target_phases = [phase("next token, corpus; in the second half also the exit", work / "target.pt")]
    draft_phases = [phase(stage.name, checkpoint(work, number)) for number, stage in enumerate(PHASES)]
    report["target"]["phases"] = phases_so_far(start, "target") + target_phases
    report["draft"]["phases"] = phases_so_far(start, "draft") + draft_phases
    (work / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    models: dict[str, Qwen3ForCausalLM] = {"target": target, "draft": draft}
    for role, model in models.items():
        export(model, work / "tokenizer", out / role, card(role, report))
        logger.info("wrote %s", out / role)


def main() -> None:
    """Runs every stage that is not done yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--work", type=Path, default=Path("out/train"), help="scratch folder, kept for resuming"
    )
    parser.add_argument("--out", type=Path, default=Path("examples/models"), help="gets target/ and draft/")
    parser.add_argument("--data", type=Path, default=Path("examples/data/heldout.jsonl"), help="the prompts")
    parser.add_argument("--minutes", type=float, default=70.0, help="the target's training time")
    parser.add_argument("--tokens", type=int, default=None, help="or its tokens, where that is sooner")
    parser.add_argument(
        "--draft-share", type=float, default=0.4, help="the draft's time, relative to the target's"
    )
    parser.add_argument("--start-from", type=Path, help="go on from the pair in this folder, such as --out's")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(args.threads)
    prepare(args.work, args.start_from)
    train_pair(
        args.work,
        seconds=args.minutes * 60,
        tokens=args.tokens,
        draft_share=args.draft_share,
        start=args.start_from,
    )
    args.out.mkdir(parents=True, exist_ok=True)
    ship(args.work, args.out, args.data, args.start_from)


if __name__ == "__main__":
    main()
