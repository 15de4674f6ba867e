"""The steps of `sglang-mirror train`: text, models, training, the folder. A step that is done is skipped."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sglang_mirror.errors import MirrorError
from sglang_mirror.train.beside import OWN_TEXT_TIME
from sglang_mirror.train.data import Windows
from sglang_mirror.train.device import training_device
from sglang_mirror.train.distill import MixedWindows
from sglang_mirror.train.generate import own_text
from sglang_mirror.train.optim import Budget
from sglang_mirror.train.streaming import STREAM_WEIGHT, StreamingModel, save_streaming, streaming_loss
from sglang_mirror.train.texts import documents, token_dtype, write_documents
from sglang_mirror.train.trainer import Plan, Trainer

logger = logging.getLogger(__name__)

OWN_TEXT_SECONDS = 120.0  # where its end is given in tokens
SEED = 41


def make_streaming(args: argparse.Namespace) -> None:
    """Train and write the streaming draft that the command line asks for.

    Raises:
        MirrorError: naming the setting, its value and what to give instead.
    """
    device = training_device(args.device)
    work: Path = args.work or args.out.with_name(args.out.name + ".work")
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    tokens = work / "tokens.bin"
    if not tokens.exists():
        count = write_documents(tokens, documents(args.text), tokenizer, least=args.window + 1)
        logger.info("%d tokens of text", count)
    base = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    adapted = _with_lora(base, args.lora) if args.lora else None
    student = StreamingModel(base, count=args.streams, num_layers=args.layers).to(device)
    target = _target(args.target, tokenizer).to(device) if args.target else None
    plan = Plan(
        Budget(tokens=args.tokens, seconds=args.minutes * 60 if args.minutes else None),
        tokens_per_step=args.batch_tokens,
        window_len=args.window,
        long_window_len=args.window,
        lr_scale=args.lr_scale,
    )
    loss = streaming_loss(student, target, compiled=False)
    trainer = Trainer(
        student,
        loss,
        _windows(args, tokens, len(tokenizer), target, work),
        plan,
        work / "checkpoint.pt",
        curve=work / "loss.csv",
    )
    trainer.train()
    if adapted is not None:
        student.model = adapted.merge_and_unload()
    save_streaming(student.eval(), args.model, args.out, _card(args, trainer))


def _with_lora(base: Any, rank: int) -> Any:
    """The base, its projections with low-rank adapters, which alone are trained with the streams."""
    try:
        from peft import LoraConfig, get_peft_model  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MirrorError("--lora needs peft: pip install '.[train]' in a checkout") from error
    return get_peft_model(base, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear"))


def _target(folder: Path, tokenizer: Any) -> Any:
    theirs = AutoTokenizer.from_pretrained(folder)
    if theirs.get_vocab() != tokenizer.get_vocab():
        raise MirrorError(
            f"--target {folder}: its vocabulary ({len(theirs)} entries) is not the draft's "
            f"({len(tokenizer)}); a draft shares its target's tokenizer"
        )
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def _windows(args: argparse.Namespace, tokens: Path, vocab_size: int, target: Any, work: Path) -> Windows:
    dtype = token_dtype(vocab_size)
    windows = Windows(tokens, seed=SEED, dtype=dtype)
    if target is None or not args.own_text:
        return windows
    seconds = args.minutes * 60 * OWN_TEXT_TIME if args.minutes else OWN_TEXT_SECONDS
    text = own_text(
        target, Windows(tokens, seed=SEED + 1, dtype=dtype), work / "own_text.pt", seconds=seconds
    )
    return MixedWindows(windows, text, args.own_text)


def _card(args: argparse.Namespace, trainer: Trainer) -> str:
    entry = {"streams": args.streams, "layers": args.layers, "lora": args.lora, "target": str(args.target)}
    return (
        f"# Streaming draft\n\nMade of `{args.model.name}` by `sglang-mirror train`: {json.dumps(entry)}; "
        f"{trainer.tokens:,} tokens in {trainer.step:,} steps, each stream's loss weighing {STREAM_WEIGHT}.\n"
    )
