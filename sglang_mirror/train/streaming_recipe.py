"""The embedded draft with streams, resumable: `python -m sglang_mirror.train.streaming_recipe`.

It begins as the embedded draft and goes on with the same text, most of it the target's own; it is written
beside it, and both are measured on held-out prompts, as they are shipped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import Qwen3ForCausalLM

from sglang_mirror.train.beside import (
    REFERENCE,
    arguments,
    begin,
    keep_measured,
    mixed_windows,
    plan_of,
    short_prompts,
)
from sglang_mirror.train.evaluate_streams import greedy_texts, streaming_acceptance
from sglang_mirror.train.optim import Budget
from sglang_mirror.train.prepare import prepare
from sglang_mirror.train.shapes import draft_config, target_config
from sglang_mirror.train.start import start_model
from sglang_mirror.train.streaming import (
    STREAM_WEIGHT,
    StreamingModel,
    load_streaming,
    save_streaming,
    streaming_loss,
)
from sglang_mirror.train.tokenizer import load_tokenizer
from sglang_mirror.train.trainer import Trainer

COUNT, NUM_LAYERS = 2, 1
OWN_TEXT_SHARE = 0.7  # of each step's rows
LR_SCALE = 0.5  # the main stream has learned already
GAMMA = 7


def train_streams(
    work: Path, models: Path, target: Qwen3ForCausalLM, *, seconds: float, tokens_per_step: int
) -> Trainer:
    """Trains the embedded draft on with streams, on the target's device.

    Its checkpoint is `work`/streaming.pt.
    """
    windows = mixed_windows(work, target, "streaming", seed=31, share=OWN_TEXT_SHARE, seconds=seconds)
    student = StreamingModel(start_model(models, "draft", draft_config()), count=COUNT, num_layers=NUM_LAYERS)
    plan = plan_of(Budget(seconds=seconds), tokens_per_step=tokens_per_step, lr_scale=LR_SCALE)
    # A GPU trains on so little so fast that compiling would take longer than it saves.
    loss = streaming_loss(student, target, compiled=target.device.type == "cpu")
    trainer = Trainer(student.to(target.device), loss, windows, plan, work / "streaming.pt")
    trainer.train()
    return trainer


def measured(models: Path, target: Qwen3ForCausalLM, data: Path) -> dict[str, Any]:
    """`streaming_acceptance` of the drafts in `models`, with and without streams, on the target's device."""
    student = load_streaming(models / "streaming").to(target.device)
    base = start_model(models, "draft", draft_config()).eval()
    plain = StreamingModel(base, count=1, num_layers=1).to(target.device)
    prompts = short_prompts(data, load_tokenizer(models / "streaming"))
    texts = greedy_texts(target, prompts)
    return {
        "streaming": streaming_acceptance(student, prompts, texts, gamma=GAMMA, streams=COUNT),
        "plain": streaming_acceptance(plain, prompts, texts, gamma=GAMMA, streams=0),
    }


def card(trainer: Trainer) -> str:
    """What the draft is, and where to see what its streams are worth."""
    return (
        "---\nlicense: apache-2.0\n---\n\n# Embedded pair: streaming draft\n\n"
        f"The embedded draft with {COUNT} lookahead streams in its top {NUM_LAYERS} of 2 layers, trained on "
        f"with {STREAM_WEIGHT} of each stream's loss.\n\n"
        f"* {trainer.tokens:,} tokens in {trainer.step:,} steps, {trainer.seconds / 60:.0f} minutes; "
        f"{OWN_TEXT_SHARE:.0%} of the text is the target's own\n"
        f"* accepted length and forwards of a window of {GAMMA} at temperature 0, with and without streams: "
        f"`{REFERENCE}`\n"
        "* again: `python -m sglang_mirror.train.streaming_recipe`\n"
    )


def main() -> None:
    """Prepare, train, write, measure; a stage that is done is skipped."""
    args = arguments(__doc__, gets="streaming", minutes=30.0).parse_args()
    device = begin(args)
    target = start_model(args.models, "target", target_config()).to(device).eval()
    folder = args.models / "streaming"
    if not args.measure:
        prepare(args.work, args.models)
        trainer = train_streams(
            args.work,
            args.models,
            target,
            seconds=args.minutes * 60,
            tokens_per_step=args.tokens_per_step,
        )
        assert isinstance(trainer.model, StreamingModel)
        save_streaming(trainer.model.eval(), args.models / "draft", folder, card(trainer))
    keep_measured(folder, measured(args.models, target, args.data))


if __name__ == "__main__":
    main()
