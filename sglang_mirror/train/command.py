"""`sglang-mirror train`: a causal language model becomes a streaming draft."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

from sglang_mirror.errors import MirrorError, needing

LEAST = {"streams": 1, "layers": 1, "window": 16, "batch_tokens": 16, "lora": 1, "tokens": 1}


def add_parser(commands: Any) -> None:
    """Add the command to the `sglang-mirror` parser."""
    parser = commands.add_parser("train", help="make a streaming draft of a causal language model")
    add = parser.add_argument
    add("--model", type=Path, required=True, help="folder of the draft to begin with")
    add("--out", type=Path, required=True, help="folder of the streaming draft")
    add("--text", type=Path, nargs="+", required=True, help="files, folders, .jsonl with a text or messages")
    add("--target", type=Path, help="folder of the target, to learn from its distribution and its own text")
    add("--own-text", type=float, default=0.5, help="share of the target's own text (default: %(default)s)")
    add("--streams", type=int, default=2, help="lookahead streams (default: %(default)s)")
    add("--layers", type=int, default=1, help="top layers that they run through (default: %(default)s)")
    add("--lora", type=int, metavar="RANK", help="train low-rank adapters of that rank, and merge them")
    add("--tokens", type=int, help="how many to train on")
    add("--minutes", type=float, help="or how long, whichever comes first")
    add("--window", type=int, default=512, help="tokens of a window (default: %(default)s)")
    add("--batch-tokens", type=int, default=4096, help="tokens of a step (default: %(default)s)")
    add("--lr-scale", type=float, default=0.5, help="of the learning rates (default: %(default)s)")
    add("--device", default="cpu", help="where it trains, such as cuda (default: %(default)s)")
    add("--work", type=Path, help="scratch, kept for resuming (default: OUT.work)")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    for name, least in LEAST.items():
        value = getattr(args, name)
        if value is not None and value < least:
            raise MirrorError(f"--{name.replace('_', '-')} {value}: must be at least {least}")
    if not args.tokens and not args.minutes:
        raise MirrorError("--tokens or --minutes is missing: say when training ends")
    if not 0 <= args.own_text < 1:
        raise MirrorError(f"--own-text {args.own_text}: a share of each step, from 0 to below 1")
    for name in ("model", "target"):
        folder = getattr(args, name)
        if folder and not (folder / "config.json").is_file():
            raise MirrorError(f"--{name} {folder}: no model folder, it has no config.json")
    with needing("train"):
        from sglang_mirror.train.make import make_streaming  # noqa: PLC0415
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    make_streaming(args)
    sys.stdout.write(f"{args.out}\n")
    return 0
