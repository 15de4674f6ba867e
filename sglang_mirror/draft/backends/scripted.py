"""A draft without a model: says what a function says, on time, late, or not at all."""

from __future__ import annotations

import hashlib
import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields

from sglang_mirror.core.roots import Candidates
from sglang_mirror.draft.backends.base import Said, Segment
from sglang_mirror.errors import SettingsError
from sglang_mirror.protocol.vocabulary import vocabulary_size

# The `count` most probable next tokens after a prefix.
Script = Callable[[Sequence[int], int], Candidates]


@dataclass(slots=True)
class ScriptedCache:
    """Remembers which token was written to which slot, as a KV cache does, and what was ever computed."""

    tokens: list[int] = field(default_factory=list)
    computed: set[int] = field(default_factory=set)

    def move(self, slots: Sequence[int], start: int) -> None:
        self.tokens[start:] = [self.tokens[slot] for slot in slots]


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong.

    Attributes:
        delay_s: every forward takes so long.
        hang_after: forwards after which one never ends; 0: none.
        fail_after: forwards after which every one raises; 0: none.
        beyond: proposed token ids may exceed the model's by so many.
    """

    delay_s: float = 0.0
    hang_after: int = 0
    fail_after: int = 0
    beyond: int = 0


class ScriptedBackend:
    """Answers from a script; a row's prefix is read back through slots and masks, so these are tested too.

    Args:
        script: the `count` most probable next tokens after a prefix.
        vocab_size: token ids are below it.
        max_len: tokens that a request may have.
        faults: what goes wrong.
        ahead: what its streams say after a prefix, if it has any.
    """

    rows_at_once: int | None = None

    def __init__(
        self,
        script: Script,
        *,
        vocab_size: int = 4096,
        max_len: int = 1 << 20,
        faults: Faults | None = None,
        ahead: Callable[[Sequence[int], int], tuple[Candidates, ...]] = lambda _prefix, _count: (),
    ) -> None:
        self.name, self.device = "scripted", "cpu"
        self.vocab_size, self.max_len = vocab_size, max_len
        self.num_forwards = 0
        self.num_rows = 0
        self._script, self._ahead = script, ahead
        self._faults = faults or Faults()

    def prepare(self, num_candidates: int, num_seen: int) -> None:
        """It has as many as are asked for."""

    def new_cache(self, num_tokens: int = 0) -> ScriptedCache:  # noqa: ARG002
        return ScriptedCache()

    def reserve(self, segment: Segment) -> None:
        """It has room for everything."""

    def forward(self, segments: Sequence[Segment], num_candidates: int) -> list[list[Said]]:
        """As `Backend.forward`; asserts that rows see what they should and nothing is computed twice."""
        self.num_forwards += 1
        self._misbehave()
        return [self._answer(segment, num_candidates) for segment in segments]

    def _misbehave(self) -> None:
        faults = self._faults
        time.sleep(faults.delay_s)
        if faults.fail_after and self.num_forwards > faults.fail_after:
            raise RuntimeError("the script fails here")
        while faults.hang_after and self.num_forwards > faults.hang_after:
            time.sleep(1.0)

    def _answer(self, segment: Segment, num_candidates: int) -> list[Said]:
        cache = segment.cache
        assert isinstance(cache, ScriptedCache)
        cache.tokens[segment.start :] = segment.tokens
        prefixes = [
            (*cache.tokens[: segment.prefix], *_seen(cache.tokens[segment.prefix :], bits))
            for bits in segment.seen
        ]
        for prefix, position, token in zip(prefixes, segment.positions, segment.tokens, strict=True):
            assert len(prefix) == position + 1 and prefix[-1] == token, "a row sees what it should not"
            assert hash(prefix) not in cache.computed, "computed twice"
            cache.computed.add(hash(prefix))
        self.num_rows += len(prefixes)
        return [
            Said(
                self._script(prefixes[row], num_candidates),
                self._ahead(prefixes[row], num_candidates) if row in segment.streamed else (),
            )
            for row in segment.wanted
        ]


def _seen(tokens: Sequence[int], bits: int) -> list[int]:
    return [token for index, token in enumerate(tokens) if bits >> index & 1]


def hash_script(vocab_size: int, *, order: int = 4) -> Script:
    """A script that is a fixed random language model over the last `order` tokens."""

    def script(prefix: Sequence[int], count: int) -> Candidates:
        seed = hashlib.blake2b(repr(tuple(prefix[-order:])).encode(), digest_size=16).digest()
        first, stride = int.from_bytes(seed[:4]) % vocab_size, 1 + seed[4] % (vocab_size - 1)
        while math.gcd(stride, vocab_size) != 1:
            stride += 1
        tokens = tuple((first + rank * stride) % vocab_size for rank in range(count))
        ratio = 0.1 + seed[5] / 320  # probabilities fall geometrically, and sum to one
        first_logprob = math.log1p(-ratio)
        return Candidates(tokens, tuple(first_logprob + rank * math.log(ratio) for rank in range(count)))

    return script


def load_scripted(*, model: str, device: str, dtype: str, threads: int, options: str = "") -> ScriptedBackend:
    """A random language model over `model`'s vocabulary, for drills: nothing of it is ever right.

    Args:
        model: a model folder or hub name, of which only the tokenizer is read.
        device: not used.
        dtype: not used.
        threads: not used.
        options: faults, such as "delay_s=0.05,hang_after=100".

    Raises:
        SettingsError: an option is none.
    """
    del device, dtype, threads
    faults: dict[str, float] = {}
    for option in filter(None, options.split(",")):
        name, _, value = option.partition("=")
        known = {field.name: field.type for field in fields(Faults)}
        if name not in known or not re.fullmatch(r"\d+(\.\d+)?", value):
            raise SettingsError([f"--backend scripted:{options}: give NAME=NUMBER of {', '.join(known)}"])
        faults[name] = float(value) if known[name] == "float" else int(float(value))
    chosen = Faults(**faults)  # type: ignore[arg-type]
    size = vocabulary_size(model)
    return ScriptedBackend(hash_script(size + chosen.beyond), vocab_size=size, faults=chosen)
