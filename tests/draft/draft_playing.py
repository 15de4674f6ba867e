"""Plays the target against a draft service in process: no socket, no clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sglang_mirror.core.branches import Branch, BranchTable
from sglang_mirror.core.roots import Candidates, RootMode
from sglang_mirror.core.simulator import Models, Step
from sglang_mirror.core.verify import follow
from sglang_mirror.core.window import Window
from sglang_mirror.draft.backends.base import Backend
from sglang_mirror.draft.backends.scripted import Faults, ScriptedBackend, hash_script
from sglang_mirror.draft.scheduler import Limits
from sglang_mirror.draft.service import DraftService
from sglang_mirror.protocol.messages import (
    VERSION,
    Branches,
    Commit,
    Committed,
    ExitCandidates,
    Failed,
    FreshWindow,
    Hello,
    Message,
    Open,
    Ready,
    Refused,
    Signal,
    Stamp,
)

VOCABULARY = "fingerprint"
VOCAB = 61


def hello(
    *,
    gamma: int = 3,
    topk: int = 1,
    nodes: int = 0,
    kappa: int = 4,
    roots: RootMode = "union",
    budget: int = 6,
    **changes: object,
) -> Hello:
    said = {
        "version": VERSION, "vocabulary": VOCABULARY, "gamma": gamma, "topk": topk, "kappa": kappa,
        "nodes": nodes or gamma + 1,
        "roots": roots, "root_budget": budget, "beat_ms": 100, "target": "test",
    }  # fmt: skip
    return Hello(**{**said, **changes})  # type: ignore[arg-type]


@dataclass
class Player:
    """A draft service and what it has said to whom."""

    backend: Backend
    limits: Limits | None = None
    heard: dict[bytes, list[Message]] = field(default_factory=dict)
    gone: set[bytes] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.service = DraftService(self.backend, VOCABULARY, self._hear, limits=self.limits)

    def _hear(self, target: bytes, message: Message) -> bool:
        self.heard.setdefault(target, []).append(message)
        return target not in self.gone

    def say(self, target: bytes, message: Message) -> None:
        self.service.handle(target, message, 0.0)  # type: ignore[arg-type]

    def greet(self, target: bytes, said: Hello) -> Ready | Refused:
        self.say(target, said)
        answer = self.heard[target].pop()
        assert isinstance(answer, Ready | Refused)
        return answer

    def settle(self, most: int = 10_000) -> int:
        """Run until there is nothing to compute; the number of forwards."""
        for done in range(most):
            if not self.service.step():
                return done
        raise AssertionError("the draft never comes to rest")

    def take(self, target: bytes) -> list[Message]:
        taken = self.heard.get(target, [])
        self.heard[target] = []
        return taken


def player(limits: Limits | None = None, **faults: float) -> Player:
    backend = ScriptedBackend(hash_script(VOCAB), vocab_size=VOCAB, max_len=2000, faults=Faults(**faults))  # type: ignore[arg-type]
    return Player(backend, limits)


def opening(request: int, length: int, *, window: bool = True, generation: int = 0) -> Open:
    return Open(Stamp(request, generation, length), "r", tuple(i % VOCAB for i in range(length)), window)


def commit(request: int, length: int, *tokens: int, generation: int = 0) -> Commit:
    return Commit((Committed(Stamp(request, generation, length), tokens, 0),))


def kinds(messages: list[Message]) -> list[str]:
    return [type(message).__name__ for message in messages]


@dataclass
class Playback:
    """One request decoded step by step, the draft having all the time it wants."""

    player: Player
    target: bytes
    said: Hello
    models: Models
    request: int = 0

    def open(self, prompt: Sequence[int]) -> None:
        self.committed = [*prompt, self.models.target(prompt)]
        self.say(Open(self.stamp, "r", tuple(self.committed), True))
        self.window = self.fresh_window()

    @property
    def stamp(self) -> Stamp:
        return Stamp(self.request, 0, len(self.committed))

    def say(self, message: Message) -> None:
        self.player.say(self.target, message)

    def messages(self) -> list[Message]:
        self.player.settle()
        taken = self.player.take(self.target)
        assert not [m for m in taken if isinstance(m, Failed)], taken
        return taken

    def fresh_window(self) -> Window:
        self._pending = self.messages()
        fresh = self._pending.pop(0)
        assert isinstance(fresh, FreshWindow)
        assert fresh.stamp == self.stamp
        return Window((self.committed[-1], *fresh.tokens), (-1, *fresh.parents))

    def prefixes(self) -> list[list[int]]:
        paths: list[list[int]] = []
        for token, parent in zip(self.window.tokens, self.window.parents, strict=True):
            paths.append([*(self.committed[:-1] if parent < 0 else paths[parent]), token])
        return paths

    def signal(self) -> Signal:
        by_exit = [
            self.models.exit(prefix).without(self.window.child_tokens(node), self.said.kappa)
            for node, prefix in enumerate(self.prefixes())
        ]
        tokens = tuple(c.tokens for c in by_exit)
        return Signal((ExitCandidates(self.stamp, tokens, tuple(c.logprobs for c in by_exit)),))

    def step(self) -> Step:
        table = BranchTable(len(self.committed))
        self.say(self.signal())
        said, self._pending = self._pending + self.messages(), []
        phases = []
        for message in said:
            assert isinstance(message, Branches)
            assert message.stamp == self.stamp
            phases += [message.phase] if message.phase else []
            for b in message.branches:
                window = Window((b.token, *b.tokens), (-1, *b.parents))
                assert table.put(len(self.committed), b.node, Branch(window, b.source))
        assert phases == sorted(set(phases))
        self.phases, self.table = phases, table
        verdict = follow(self.window, [self.models.target(prefix) for prefix in self.prefixes()])
        branch = table.look_up(verdict.outcome)
        step = Step(
            len(self.committed), self.window.tokens, verdict.outcome, verdict.num_accepted,
            branch.source if branch else None,
        )  # fmt: skip
        tokens = verdict.committed(self.window)
        self.committed += tokens
        self.say(Commit((Committed(self.stamp, tokens, len(branch.window) - 1 if branch else 0),)))
        if branch is not None:
            self.window, self._pending = branch.window, self.messages()
        else:
            self.window = self.fresh_window()
        return step


def scripted_models(script: object, target_order: int = 3) -> Models:
    """A target that often, not always, says what the draft would; an exit in between."""

    def draft(prefix: Sequence[int], count: int = 64) -> Candidates:
        return script(prefix, count)  # type: ignore[operator,no-any-return]

    def target(prefix: Sequence[int]) -> int:
        # Which rank of the draft's candidates is right depends on the text alone.
        rank = (sum(prefix[-target_order:]) * 7 + len(prefix)) % 11
        return draft(prefix).tokens[{0: 1, 1: 2, 2: 5, 3: 9}.get(rank, 0)]

    def exit_(prefix: Sequence[int]) -> Candidates:
        own = draft(prefix, 12)
        turn = len(prefix) % 3
        return Candidates(own.tokens[turn:] + own.tokens[:turn], own.logprobs)

    return Models(target, draft, exit_)
