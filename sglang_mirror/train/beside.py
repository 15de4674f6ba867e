"""What recipes share that train something beside the embedded pair: an EAGLE3 head, a streaming draft."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from sglang_mirror.errors import MirrorError
from sglang_mirror.train import heldout
from sglang_mirror.train.device import training_device
from sglang_mirror.train.distill import MixedWindows
from sglang_mirror.train.generate import own_text
from sglang_mirror.train.optim import Budget
from sglang_mirror.train.pretrain import training_windows
from sglang_mirror.train.trainer import Plan

logger = logging.getLogger(__name__)

OWN_TEXT_TIME = 0.1  # of the training's
# Rows of own text that are written at once. On a GPU many take hardly longer than few, and its training is so
# fast that few would be seen too often.
OWN_TEXT_ROWS, OWN_TEXT_ROWS_ON_GPU = 128, 2048
NUM_PROMPTS = 40
REFERENCE = "acceptance.json"  # in the folder that is made: what was measured


def arguments(description: str | None, *, gets: str, minutes: float) -> argparse.ArgumentParser:
    """The options that such recipes have; `gets` names the folder that is made beside the pair."""
    parser = argparse.ArgumentParser(description=description)
    add = parser.add_argument
    add("--models", type=Path, default=Path("examples/models"), help=f"has the pair, gets {gets}/")
    add("--work", type=Path, default=Path("out") / gets, help="scratch, kept for resuming")
    add("--data", type=Path, default=Path("examples/data/heldout.jsonl"))
    add("--minutes", type=float, default=minutes)
    add("--threads", type=int, default=2)
    add("--device", default="cpu", help="where it trains, such as cuda (default: %(default)s)")
    add("--tokens-per-step", type=int, default=2048, help="more pay on a GPU (default: %(default)s)")
    add("--measure", action="store_true", help="measure what is there, and no more")
    return parser


def begin(args: argparse.Namespace) -> torch.device:
    """Progress to the log, and so many threads; the device to train on. Ends the process if that is none."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(args.threads)
    try:
        return training_device(args.device)
    except MirrorError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)


def plan_of(budget: Budget, *, tokens_per_step: int, lr_scale: float = 1.0) -> Plan:
    """How both train: short windows, the last of them twice as long."""
    return Plan(
        budget, tokens_per_step=tokens_per_step, window_len=256, long_window_len=512, lr_scale=lr_scale
    )


def mixed_windows(
    work: Path, target: Qwen3ForCausalLM, name: str, *, seed: int, share: float, seconds: float
) -> MixedWindows:
    """The corpus, with `share` of each step's rows the target's own text, which is written first.

    Args:
        work: what `prepare` left.
        target: whose text it is.
        name: of the recipe, in the file that keeps the text.
        seed: of the prefixes; the corpus takes the next.
        share: of the rows.
        seconds: of the training; writing takes a tenth of it.
    """
    path = work / f"own_text-{name}.pt"
    prefixes = training_windows(work, seed=seed)
    rows = OWN_TEXT_ROWS if target.device.type == "cpu" else OWN_TEXT_ROWS_ON_GPU
    text = own_text(target, prefixes, path, seconds=seconds * OWN_TEXT_TIME, rows=rows)
    return MixedWindows(training_windows(work, seed=seed + 1), text, share)


def short_prompts(data: Path, tokenizer: PreTrainedTokenizerFast) -> list[list[int]]:
    """Token ids of the first held-out prompts."""
    rows = [each["prompt"] for each in heldout.read(data) if not each["long"]]
    return [tokenizer.encode(row) for row in rows[:NUM_PROMPTS]]


def keep_measured(folder: Path, found: dict[str, Any]) -> None:
    """What was measured, to the log and into the folder that it is of."""
    logger.info("%s", json.dumps(found))
    (folder / REFERENCE).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
