"""Every setting of mirror: its default, its meaning, its three spellings. Resolved once, then frozen.

A setting `exit_layer` is the flag `--mirror-exit-layer`, the variable `SGLANG_MIRROR_EXIT_LAYER` and the key
`exit_layer` in the TOML file that `--mirror-config` names. The flag wins over the variable, the variable over
the file, the file over the default.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from sglang_mirror.errors import SettingsError

PREFIX = "SGLANG_MIRROR_"
CONFIG_FILE = PREFIX + "CONFIG"
BEATS_BEFORE_LOST = 3


def _setting(default: Any, meaning: str, **checks: Any) -> Any:
    return field(default=default, metadata={"help": meaning, **checks})


@dataclass(frozen=True, slots=True)
class MirrorConfig:
    """The settings; each field's meaning is also its flag's help.

    Raises:
        SettingsError: one or more values are out of range; it lists them all.
    """

    draft_model: str | None = _setting(None, "the draft model; SGLang's --speculative-draft-model-path")
    draft_endpoint: str | None = _setting(
        None, "a draft process that runs already: ipc://PATH or tcp://HOST:PORT (default: we start one)"
    )
    draft_device: str = _setting(
        "auto", "where the draft computes: cpu, cuda:1, ... (auto: a free GPU or cpu)"
    )
    draft_share: int | None = _setting(
        None,
        "with MPS, percent of the target's GPU that a draft on it may use; the target keeps the rest",
        low=1,
        high=99,
    )
    draft_backend: str = _setting(
        "torch",
        "what computes the draft: torch; torch-fused: graphs of merged kernels; torch-eager: no CUDA graphs",
    )
    draft_dtype: str = _setting("auto", "the draft's number format: float32, bfloat16, float16 or auto")
    draft_memory_gb: float | None = _setting(
        None, "GiB of its GPU's memory for the draft, weights and all (default: what is free)", low=0.1
    )
    draft_threads: int | None = _setting(
        None, "the draft's threads on a CPU (default: 1; beside a target on GPUs half of the cores)", low=1
    )
    draft_cpus: str | None = _setting(None, "CPU cores for the draft process, such as 1 or 2-3")
    exit_layer: int | None = _setting(
        None, "target layers before the early exit is read (default: half)", low=1
    )
    exit_vocab: int | None = _setting(
        None, "token ids that the early exit considers: those below it (default: all)", low=128
    )
    kappa: int = _setting(8, "exit candidates at each node", low=1, high=64)
    roots: Literal["auto", "union", "exit", "draft", "none"] = _setting(
        "auto",
        "whose candidates become roots: the early exit's, the draft's, or the union of both; auto: of both, "
        "without the exit's where these are measured not to pay",
        choices=("auto", "union", "exit", "draft", "none"),
    )
    root_budget: int = _setting(12, "branches that the draft prepares for each step and request", low=0)
    speculate: Literal["auto", "always"] = _setting(
        "auto",
        "auto: decode plainly where that is measured to be faster; always: whatever it costs",
        choices=("auto", "always"),
    )
    window_end: Literal["auto", "full"] = _setting(
        "auto",
        "auto: windows end before tokens too improbable to be worth verifying; full: at their depth",
        choices=("auto", "full"),
    )
    miss: Literal["auto", "wait", "plain"] = _setting(
        "auto",
        "after a miss: wait for a fresh window, decode plainly once, or what is measured to be faster",
        choices=("auto", "wait", "plain"),
    )
    miss_wait_ms: float = _setting(50.0, "how long to wait for a window before decoding plainly", low=0)
    beat_ms: int = _setting(100, "how often the draft must be heard, in milliseconds", low=10)
    lost_after_ms: float = _setting(1000.0, "silence after which the draft counts as lost", low=50)
    start_timeout_s: float = _setting(
        60.0, "how long the server's start waits for a draft that we start, before it serves plainly", low=0
    )
    schedule: Literal["sync", "overlap"] = _setting(
        "sync",
        "sync: SGLang takes a step's results in before the next; overlap: while the GPU computes the next",
        choices=("sync", "overlap"),
    )
    lockstep: bool = _setting(
        False, "wait for every branch before each commit: reproducible hits, for traces"
    )
    trace: str | None = _setting(None, "write one JSON line a step and request to this file")
    draft_trace: str | None = _setting(
        None, "write one JSON line a forward of the draft that we start to this file"
    )
    curve_dir: str | None = _setting(None, "folder with CURVE keys, for a draft over tcp://")
    insecure_tcp: bool = _setting(False, "let tcp:// do without CURVE keys")

    def __post_init__(self) -> None:
        problems = [problem for item in dataclasses.fields(self) if (problem := _problem(self, item))]
        if self.lost_after_ms < BEATS_BEFORE_LOST * self.beat_ms:
            problems.append(
                f"--mirror-lost-after-ms {self.lost_after_ms:g}: must be at least {BEATS_BEFORE_LOST} times "
                f"--mirror-beat-ms {self.beat_ms}, or an idle draft would count as lost between two beats"
            )
        if self.miss == "plain" and (self.roots in ("exit", "none") or not self.root_budget):
            problems.append(
                f"--mirror-miss plain: with --mirror-roots {self.roots} and --mirror-root-budget "
                f"{self.root_budget} no branch follows a request without a window, so nothing would ever be "
                "speculated; choose wait, or roots of the draft's"
            )
        if self.miss == "plain" and self.lockstep:
            problems.append("--mirror-miss plain: --mirror-lockstep waits for every window; choose wait")
        if problems:
            raise SettingsError(problems)

    @property
    def root_mode(self) -> Literal["exit", "draft", "union", "none"]:
        """Whose candidates may become roots."""
        return "union" if self.roots == "auto" else self.roots

    @property
    def has_exit(self) -> bool:
        """Whether the early exit may be read."""
        return self.root_mode in ("exit", "union") and self.root_budget > 0

    @property
    def insists_on_exit(self) -> bool:
        """Whether what keeps the early exit from being read is an error; else the draft guesses alone."""
        return self.has_exit and (self.roots != "auto" or self.exit_layer is not None)

    def of_replica(self, replica: int) -> MirrorConfig:
        """Those of one target of several: all but the first have a number in their draft's trace's name."""
        if not replica or self.draft_trace is None:
            return self
        return dataclasses.replace(self, draft_trace=f"{self.draft_trace}.{replica}")


def _problem(config: MirrorConfig, item: dataclasses.Field[Any]) -> str | None:
    value, allowed = getattr(config, item.name), item.metadata
    if value is None:
        return None
    if "choices" in allowed and value not in allowed["choices"]:
        return f"{flag(item.name)} {value!r}: choose one of {', '.join(allowed['choices'])}"
    if "low" in allowed and value < allowed["low"]:
        return f"{flag(item.name)} {value}: must be at least {allowed['low']}"
    if "high" in allowed and value > allowed["high"]:
        return f"{flag(item.name)} {value}: must be at most {allowed['high']}"
    return None


def flag(name: str) -> str:
    """The command line's spelling of a setting."""
    return "--speculative-draft-model-path" if name == "draft_model" else "--mirror-" + name.replace("_", "-")


def variable(name: str) -> str:
    """The environment's spelling of a setting."""
    return PREFIX + name.upper()


def kinds() -> dict[str, type]:
    """The type of each setting, without its None."""
    return {name: _kind(hint) for name, hint in get_type_hints(MirrorConfig).items()}


def _kind(hint: Any) -> type:
    if get_origin(hint) is Literal:
        return str
    kinds_: tuple[type, ...] = get_args(hint) or (hint,)
    return next(kind for kind in kinds_ if kind is not type(None))


def resolve(environment: Mapping[str, str] | None = None) -> MirrorConfig:
    """The configuration that the environment (and the file it names) asks for.

    Raises:
        SettingsError: unknown settings, values of the wrong type or out of range, an unreadable file.
    """
    environment = os.environ if environment is None else environment
    known = kinds()
    problems: list[str] = []
    values: dict[str, Any] = {}
    path = environment.get(CONFIG_FILE)
    for name, value in (_read_file(Path(path)) if path else {}).items():
        if name not in known:
            problems.append(f"{path}: unknown setting {name!r}; {_known(name, known)}")
        elif type(value) is not known[name] and not (known[name] is float and type(value) is int):
            problems.append(f"{path}: {name} = {value!r}: expected {known[name].__name__}")
        else:
            values[name] = value
    for key, text in environment.items():
        if not key.startswith(PREFIX) or key == CONFIG_FILE:
            continue
        name = key.removeprefix(PREFIX).lower()
        if name not in known:
            problems.append(f"{key}: unknown setting; {_known(key, map(variable, known))}")
            continue
        try:
            values[name] = _parse(known[name], text)
        except ValueError:
            problems.append(f"{key}={text!r}: expected {known[name].__name__}")
    if problems:
        raise SettingsError(problems)
    return MirrorConfig(**values)


def _known(name: str, known: Iterable[str]) -> str:
    """The settings that there are, and first the one that was meant, if any is like it."""
    names = list(known)
    meant = "".join(f"did you mean {like}? " for like in difflib.get_close_matches(name, names, 1))
    return f"{meant}known are {', '.join(names)}"


def _parse(kind: type, text: str) -> Any:
    if kind is not bool:
        return kind(text)
    if text.lower() not in ("1", "true", "yes", "0", "false", "no"):
        raise ValueError(text)
    return text.lower() in ("1", "true", "yes")


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError([f"--mirror-config {path}: {error}"]) from error
