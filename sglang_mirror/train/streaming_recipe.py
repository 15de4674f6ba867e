"""The embedded draft with streams, resumable: `python -m sglang_mirror.train.streaming_recipe`.

It begins as the embedded draft and goes on with the same text, most of it the target's own; both are measured
on held-out prompts, and the new one is written beside them.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3ForCausalLM

from sglang_mirror.train.beside import arguments, begin, mixed_windows, plan_of, short_prompts
from sglang_mirror.train.evaluate_streams import streaming_acceptance
from sglang_mirror.train.optim import Budget
from sglang_mirror.train.prepare import prepare
from sglang_mirror.train.shapes import draft_config, target_config
from sglang_mirror.train.start import start_model
from sglang_mirror.train.streaming import STREAM_WEIGHT, StreamingModel, save_streaming, streaming_loss
from sglang_mirror.train.tokenizer import load_tokenizer
from sglang_mirror.train.trainer import Trainer

logger = logging.getLogger(__name__)

COUNT, NUM_LAYERS = 2, 1
OWN_TEXT_SHARE = 0.7  # of each step's rows
LR_SCALE = 0.5  # the main stream has learned already
GAMMA = 7


def train_streams(work: Path, models: Path, target: Qwen3ForCausalLM, seconds: float) -> Trainer:
    """Trains the embedded draft on with streams; its checkpoint is `work`/streaming.pt."""
    windows = mixed_windows(work, target, "streaming", seed=31, share=OWN_TEXT_SHARE, seconds=seconds)
    student = StreamingModel(start_model(models, "draft", draft_config()), count=COUNT, num_layers=NUM_LAYERS)
    plan = plan_of(Budget(seconds=seconds), lr_scale=LR_SCALE)
    loss = streaming_loss(student, target, compiled=True)
    trainer = Trainer(student, loss, windows, plan, work / "streaming.pt")
    trainer.train()
    return trainer


def card(trainer: Trainer, found: dict[str, Any]) -> str:
    """What the draft is, and what its streams are worth."""
    return (
        "---\nlicense: apache-2.0\n---\n\n# Embedded pair: streaming draft\n\n"
        f"The embedded draft with {COUNT} lookahead streams in its top {NUM_LAYERS} of 2 layers, trained on "
        f"with {STREAM_WEIGHT} of each stream's loss.\n\n"
        f"* {trainer.tokens:,} tokens in {trainer.step:,} steps, {trainer.seconds / 60:.0f} minutes; "
        f"{OWN_TEXT_SHARE:.0%} of the text is the target's own\n"
        f"* windows of {GAMMA} at temperature 0: accepted length {found['streaming']['accepted_len']:.2f}, "
        f"{found['streaming']['forwards']:.2f} forwards a window; without streams "
        f"{found['plain']['accepted_len']:.2f} and {found['plain']['forwards']:.2f}\n"
        "* again: `python -m sglang_mirror.train.streaming_recipe`\n"
    )


def main() -> None:
    """Prepare, train, measure, write; a stage that is done is skipped."""
    args = arguments(__doc__, gets="streaming", minutes=30.0).parse_args()
    begin(args)
    prepare(args.work, args.models)
    target = start_model(args.models, "target", target_config()).eval()
    trainer = train_streams(args.work, args.models, target, args.minutes * 60)
    student = trainer.model.to(torch.bfloat16).float().eval()
    assert isinstance(student, StreamingModel)
    prompts = short_prompts(args.data, load_tokenizer(args.work / "tokenizer"))
    plain = StreamingModel(start_model(args.models, "draft", draft_config()).eval(), count=1, num_layers=1)
    found = {
        "streaming": streaming_acceptance(student, target, prompts, gamma=GAMMA, streams=COUNT),
        "plain": streaming_acceptance(plain, target, prompts, gamma=GAMMA, streams=0),
    }
    logger.info("%s", json.dumps(found))
    save_streaming(student, args.models / "draft", args.models / "streaming", card(trainer, found))


if __name__ == "__main__":
    main()
