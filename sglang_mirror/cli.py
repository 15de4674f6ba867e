"""The `sglang-mirror` command."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from sglang_mirror import __version__
from sglang_mirror.bench import command as bench_command
from sglang_mirror.config import resolve
from sglang_mirror.draft import command as draft_command
from sglang_mirror.errors import MirrorError
from sglang_mirror.protocol.endpoint import make_keys
from sglang_mirror.train import command as train_command

EXIT_ERROR = 2


def _keys(args: argparse.Namespace) -> int:
    make_keys(args.folder)
    return 0


def _config(_args: argparse.Namespace) -> int:
    sys.stdout.write(json.dumps(dataclasses.asdict(resolve()), indent=2) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sglang-mirror", description="Mirror Speculative Decoding for SGLang"
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    draft_command.add_parser(commands)
    bench_command.add_parser(commands)
    train_command.add_parser(commands)
    keys = commands.add_parser("keys", help="make CURVE keys for a draft over tcp://")
    keys.add_argument("folder", type=Path, help="a folder for them; both machines need a copy")
    keys.set_defaults(run=_keys)
    config = commands.add_parser("config", help="print the settings that the environment asks for")
    config.set_defaults(run=_config)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; a mistake of the user's ends with one message and status 2."""
    args = _parser().parse_args(argv)
    try:
        status: int = args.run(args)
    except MirrorError as error:
        sys.stderr.write(f"sglang-mirror: {error}\n")
        return EXIT_ERROR
    return status


if __name__ == "__main__":
    sys.exit(main())
