"""The embedded pair and its held-out prompts: where they lie."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sglang_mirror.bench.arms import Pair
from sglang_mirror.bench.prompts import Prompt, read_prompts

# How the embedded pair is served: its windows' depth, and its mirror settings. The exit is trained at half
# depth, which is the default: a layer later it knows more, too late for a rollout.
GAMMA = 8
EMBEDDED: dict[str, Any] = {"root_budget": 16}
ROOT = Path(__file__).resolve().parents[2]
PROMPTS = ROOT / "examples/data/heldout.jsonl"
# A folder with target/ and draft/ to use instead, while another pair is being tried.
OTHER_PAIR = "MIRROR_TEST_PAIR"


def embedded_pair(dtype: str = "float32") -> Pair:
    """The pair to serve, its target held as `dtype`."""
    folder = Path(os.environ.get(OTHER_PAIR) or ROOT / "examples/models")
    return Pair(folder / "target", folder / "draft", dtype)


def embedded_head() -> Path | None:
    """The EAGLE3 head of the embedded target, where `sglang_mirror.train.eagle3_recipe` has made one."""
    return _made("eagle3")


def embedded_streaming() -> Path | None:
    """The embedded draft with streams, where `sglang_mirror.train.streaming_recipe` has made one."""
    return _made("streaming")


def _made(name: str) -> Path | None:
    folder = ROOT / "examples/models" / name
    return folder if folder.is_dir() else None


def held_out(count: int, *, long: bool = False) -> list[Prompt]:
    """The first `count` held-out prompts of a kind.

    Raises:
        MirrorError: the file of prompts cannot be read.
    """
    return [prompt for prompt in read_prompts(PROMPTS) if prompt.long == long][:count]
