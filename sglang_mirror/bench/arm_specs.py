"""Arms as the command line writes them: `NAME`, or `NAME:key=value,key=value`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sglang_mirror.bench.arms import Arm, Cores, Pair, mirror
from sglang_mirror.config import MirrorConfig
from sglang_mirror.errors import MirrorError

MIRROR_SETTINGS = tuple(item.name for item in dataclasses.fields(MirrorConfig))
# The draft's own: the same for every arm, so no arm may change them.
FIXED = {"draft_model", "draft_cpus"}
SGLANGS_OWN = ("steps", "topk", "nodes", "cores")
SIZES = ("gamma", "topk", "nodes")
# Ways to spend 16 nodes: all on one path, or on the most probable ones.
WINDOWS: dict[str, dict[str, str]] = {
    "chain": {"gamma": "15"},
    "tree": {"gamma": "15", "topk": "4", "nodes": "16"},
}
OURS = ("draft", "window", *SIZES)
KEYS: dict[str, tuple[str, ...]] = {
    "plain": ("cores",),
    "standalone": SGLANGS_OWN,
    "ngram": ("nodes", "cores"),
    "eagle3": SGLANGS_OWN,
    "serial": (*OURS, *(name for name in MIRROR_SETTINGS if name not in FIXED | {"roots"})),
    "mirror": (*OURS, *(name for name in MIRROR_SETTINGS if name not in FIXED)),
}
COUNTS = {"gamma", "steps", "topk", "nodes"}
DRAFTS = ("plain", "streaming", "none")
# Where no draft answers: what mirror costs when it has none.
NOBODY = {"draft_endpoint": "ipc:///nonexistent/draft", "start_timeout_s": "1"}
OWN = "own"  # what results call a target in its own size
DEPTH = 5  # draft tokens in a chain, unless something better is known


@dataclass(frozen=True, slots=True)
class Setup:
    """What all arms share.

    Attributes:
        pair: target and draft.
        cores: where they run.
        settings: of each arm, unless it says otherwise.
        eagle3: folder of an EAGLE3 head for the target.
        streaming: folder of a streaming draft.
        target: as results call it: `OWN`, else the shape that it is enlarged to.
    """

    pair: Pair
    cores: Cores
    settings: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    eagle3: Path | None = None
    streaming: Path | None = None
    target: str = OWN


def parse_arm(text: str, setup: Setup) -> Arm:
    """The arm that `text` describes; its name is `text`.

    Raises:
        MirrorError: no such arm, or no such setting of it.
    """
    kind, _, rest = text.partition(":")
    if kind not in KEYS:
        raise MirrorError(f"--arms {text}: no such arm; there are {', '.join(KEYS)}")
    options: dict[str, str] = {}
    for word in filter(None, rest.split(",")):
        key, equals, value = word.partition("=")
        if not equals or key not in KEYS[kind]:
            raise MirrorError(
                f"--arms {text}: {word!r} is no setting of {kind}; it has {', '.join(KEYS[kind])}"
            )
        if key in COUNTS and not (value.isdecimal() and int(value)):
            raise MirrorError(f"--arms {text}: {word}: give a whole number of at least 1")
        options[key] = value
    usual = setup.settings.get(kind, {})
    if kind in ("mirror", "serial"):
        return _mirror(kind, text, {**usual, **options}, setup)
    cores = options.pop("cores", "one")
    if cores not in ("one", "all"):
        raise MirrorError(f"--arms {text}: cores is one or all")
    missing = (
        "no EAGLE3 head is given; name its folder with --eagle3"
        if kind == "eagle3" and not setup.eagle3
        else ""
    )
    # Steps, children and nodes go together: an arm that names one is not given the others' usual values.
    flags = () if kind == "plain" else _sglangs_own(kind, options or usual, setup)
    return Arm(text, flags, all_cores=cores == "all", missing=missing)


def _mirror(kind: str, name: str, options: dict[str, str], setup: Setup) -> Arm:
    """Mirror or serial; `draft` is one of `DRAFTS`, `window` one of `WINDOWS`."""
    draft, window = options.pop("draft", "plain"), options.pop("window", "")
    for key, value, known in (("draft", draft, DRAFTS), ("window", window, ("", *WINDOWS))):
        if value not in known:
            raise MirrorError(f"--arms {name}: {key}={value}: it is one of {', '.join(filter(None, known))}")
    options |= WINDOWS.get(window, {}) | (NOBODY if draft == "none" else {})
    settings: dict[str, Any] = {"gamma": DEPTH, **({"roots": "none"} if kind == "serial" else {})}
    settings |= {key: int(value) if key in SIZES else value for key, value in options.items()}
    pair = setup.pair
    if draft == "streaming":
        if setup.streaming is None:
            return Arm(name, missing="no streaming draft is given; name its folder with --streaming")
        pair = dataclasses.replace(pair, draft=setup.streaming)
    arm = mirror(pair, setup.cores, name=name, **settings)
    return dataclasses.replace(arm, has_draft=draft != "none")


def _sglangs_own(kind: str, options: Mapping[str, str], setup: Setup) -> tuple[str, ...]:
    """Flags of the speculation that SGLang brings."""
    flags = ["--speculative-algorithm", kind.upper()]
    if kind == "ngram":
        return (*flags, "--speculative-num-draft-tokens", options.get("nodes", "8"))
    steps, topk = options.get("steps", str(DEPTH)), options.get("topk", "1")
    nodes = options.get("nodes", str(int(steps) + 1))
    draft = setup.eagle3 if kind == "eagle3" else setup.pair.draft
    flags += ["--speculative-draft-model-path", str(draft), "--speculative-num-steps", steps]
    return (*flags, "--speculative-eagle-topk", topk, "--speculative-num-draft-tokens", nodes)
