"""The `--mirror-*` flags, and the early word on settings that cannot work."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable
from typing import Any

from sglang_mirror.config import CONFIG_FILE, MirrorConfig, flag, kinds, variable
from sglang_mirror.engine import settings
from sglang_mirror.errors import SettingsError

EXIT_BAD_SETTINGS = 2
DEST = "mirror_"


def _flagged() -> list[dataclasses.Field[Any]]:
    return [item for item in dataclasses.fields(MirrorConfig) if item.name != "draft_model"]


def add_flags(_result: None, parser: argparse.ArgumentParser) -> None:
    """Add one flag a setting, and the one that names a file of them."""
    group = parser.add_argument_group("mirror", "settings of --speculative-algorithm mirror")
    types = kinds()
    for item in _flagged():
        options: dict[str, Any] = {"dest": DEST + item.name, "default": None, "help": item.metadata["help"]}
        if types[item.name] is bool:
            options["action"] = "store_true"
        else:
            options |= {"type": types[item.name], "choices": item.metadata.get("choices")}
        group.add_argument(flag(item.name), **options)
    group.add_argument(
        "--mirror-config", dest=DEST + "config", default=None, help="a TOML file with these settings"
    )


def read_flags(original: Callable[[type, Any], Any], cls: type, args: argparse.Namespace) -> Any:
    """Hand our flags to every SGLang process through the environment; refuse what cannot work."""
    if not settings.asked_for(args):
        return original(cls, args)
    for item in _flagged():
        value = getattr(args, DEST + item.name, None)
        if value is not None:
            os.environ[variable(item.name)] = str(value)
    if args.mirror_config is not None:
        os.environ[CONFIG_FILE] = args.mirror_config
    reasons = settings.problems(args) or settings.endpoint_objections(args)
    if reasons:
        sys.stderr.write(f"{SettingsError(reasons)}\n")
        raise SystemExit(EXIT_BAD_SETTINGS)
    settings.adopt(args)
    return original(cls, args)
