"""The whole recipe as one resumable command: `python -m sglang_mirror.train.recipe --out examples/models`.

Stages: prepare, pretrain, distill, own text, distill on it, measure, export. A stage that is done is skipped,
and one that was interrupted goes on from its last checkpoint, at most a minute back.
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
from sglang_mirror.train.distill import distill, distill_on_own_text
from sglang_mirror.train.export import export, load_trained
from sglang_mirror.train.generate import own_text
from sglang_mirror.train.optim import Budget
from sglang_mirror.train.prepare import prepare
from sglang_mirror.train.pretrain import pretrain, training_windows
from sglang_mirror.train.report import measure, phase
from sglang_mirror.train.shapes import draft_config, target_config
from sglang_mirror.train.tokenizer import load_tokenizer
from sglang_mirror.train.trainer import Plan

logger = logging.getLogger(__name__)


def train_pair(work: Path, seconds: float, tokens: int | None, draft_share: float) -> None:
    """Trains both; the draft's phases together take `draft_share` of the target's time or tokens."""
    pretrain(work, Plan(Budget(tokens=tokens, seconds=seconds)))

    def part(share: float, lr_scale: float, decay_share: float) -> Plan:
        budget = Budget(tokens=tokens and int(tokens * share), seconds=seconds * share)
        return Plan(budget, tokens_per_step=2048, lr_scale=lr_scale, decay_share=decay_share)

    distill(work, part(draft_share * 0.35, 1.0, 0.5))
    target = load_trained(work / "target.pt", target_config())
    windows = training_windows(work, seed=4)
    text = own_text(target, windows, work / "own_text.pt", seconds=seconds * draft_share * 0.15)
    distill_on_own_text(work, text, part(draft_share * 0.5, 1.0, 0.8))


def ship(work: Path, out: Path, data: Path) -> None:
    """Measures the pair and writes both folders; cuts the prompts where `data` has none yet."""
    tokenizer = load_tokenizer(work / "tokenizer")
    if not data.exists():
        heldout.write(data, find_sources()[1], tokenizer)
    target = load_trained(work / "target.pt", target_config())
    draft = load_trained(work / "draft_own.pt", draft_config())
    report = measure(work, target, draft, tokenizer, heldout.read(data))
    report["target"]["phases"] = [phase("next token, corpus", work / "target.pt")]
    report["draft"]["phases"] = [
        phase("distilled from the target on the corpus", work / "draft.pt"),
        phase("then half on text that the target wrote itself", work / "draft_own.pt"),
    ]
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
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(args.threads)
    prepare(args.work)
    train_pair(args.work, args.minutes * 60, args.tokens, args.draft_share)
    args.out.mkdir(parents=True, exist_ok=True)
    ship(args.work, args.out, args.data)


if __name__ == "__main__":
    main()
