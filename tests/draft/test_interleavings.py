"""Whatever the order of messages and forwards, what the draft says of a text is its greedy continuation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_mirror.core.roots import RootMode
from sglang_mirror.draft.backends.scripted import ScriptedBackend, hash_script
from sglang_mirror.draft.rollout import SENT_FROM
from sglang_mirror.draft.scheduler import Limits
from sglang_mirror.protocol.messages import (
    Branches,
    Close,
    Commit,
    Committed,
    ExitCandidates,
    Failed,
    FreshWindow,
    Message,
    Open,
    Signal,
    Stamp,
)
from tests.draft.draft_playing import Player, hello

VOCAB, GAMMA, KAPPA = 53, 3, 3
SCRIPT = hash_script(VOCAB, order=3)


def greedy(text: Sequence[int]) -> tuple[int, ...]:
    grown = list(text)
    for _ in range(GAMMA):
        grown.append(SCRIPT(grown, 1).tokens[0])
    return tuple(grown[len(text) :])


@dataclass
class Request:
    """A target's view of one request, and everything it ever said of it."""

    player: Player
    target: bytes
    number: int
    generation: int = 0
    text: list[int] = field(default_factory=list)
    window: tuple[int, ...] | None = None
    branches: dict[tuple[int, int], tuple[int, ...]] = field(default_factory=dict)
    texts: dict[Stamp, tuple[tuple[int, ...], tuple[int, ...] | None]] = field(default_factory=dict)
    last: list[Message] = field(default_factory=list)
    awaited: bool = False

    @property
    def stamp(self) -> Stamp:
        return Stamp(self.number, self.generation, len(self.text))

    def say(self, message: Message) -> None:
        self.last = [*self.last[-6:], message]
        self.player.say(self.target, message)

    def open(self, pick: int, *, window: bool) -> None:
        self.generation += 1
        self.text = [(pick * 7 + i * i) % VOCAB for i in range(1 + pick % 30)]
        self.window, self.branches, self.awaited = None, {}, window
        self.texts[self.stamp] = (tuple(self.text), None)
        self.say(Open(self.stamp, "r", tuple(self.text), window))

    def commit(self, pick: int) -> None:
        """A hit on something received, a path with any correction, or a token decoded plainly."""
        hit, length = False, len(self.window or ())
        if self.window is None:
            tokens: tuple[int, ...] = (SCRIPT(self.text, 4).tokens[pick % 4],)
        elif self.branches and pick % 3:
            node, token = sorted(self.branches)[pick % len(self.branches)]
            tokens, hit = (*self.window[:node], token), True
        else:
            node = pick % (length + 1)
            options = SCRIPT([*self.text, *self.window[:node]], 6).tokens
            allowed = [t for t in options if node == length or t != self.window[node]]
            tokens = (*self.window[:node], allowed[pick % len(allowed)])
            hit = (node, tokens[-1]) in self.branches
        known = self.branches.get((len(tokens) - 1, tokens[-1])) if hit else None
        self.text += tokens
        waits = pick % 4 > 0
        if known is None and not waits:
            known = ()  # the root alone is verified
        self.window, self.branches, self.awaited = known, {}, known is None
        self.texts[self.stamp] = (tuple(self.text), known)
        self.say(Commit((Committed(self.stamp, tokens, len(known or ())),), waits=waits))

    def signal(self, pick: int) -> None:
        # Without a window it was waited for in vain, or is on its way.
        length = 1 + (GAMMA * (pick % 2) if self.window is None else len(self.window))
        tokens = tuple(tuple((pick + 5 * n + k) % VOCAB for k in range(KAPPA)) for n in range(length))
        logprobs = tuple(tuple(-1.0 - k for k in range(KAPPA)) for _ in tokens)
        self.say(Signal((ExitCandidates(self.stamp, tokens, logprobs),)))

    def hear(self, message: Message) -> None:
        assert not isinstance(message, Failed), message
        assert isinstance(message, FreshWindow | Branches)
        text, window = self.texts[message.stamp]
        current = message.stamp == self.stamp
        if isinstance(message, FreshWindow):
            assert message.tokens == greedy(text)
            assert message.parents == tuple(range(GAMMA))
            self.texts[message.stamp] = (text, message.tokens)
            if current:
                assert self.window is None, "it was not asked for"
                self.window = message.tokens
            return
        assert window is not None
        for branch in message.branches:
            whole = greedy([*text, *window[: branch.node], branch.token])
            assert branch.tokens == whole[: len(branch.tokens)]
            assert len(branch.tokens) >= GAMMA * SENT_FROM
            assert branch.node == len(window) or branch.token != window[branch.node]
            if current:
                held = self.branches.get((branch.node, branch.token), ())
                assert len(held) < len(branch.tokens), "sent twice"
                self.branches[branch.node, branch.token] = branch.tokens


operations = st.lists(
    st.tuples(
        st.sampled_from(["commit", "commit", "signal", "step", "step", "settle", "again", "open", "close"]),
        st.integers(0, 2),
        st.integers(0, 200),
    ),
    max_size=60,
)


@given(
    operations=operations,
    roots=st.sampled_from(["union", "exit", "draft", "none"]),
    budget=st.integers(0, 7),
    rows=st.integers(1, 12),
)
@settings(max_examples=150, deadline=None)
def test_any_order(operations: list[tuple[str, int, int]], roots: RootMode, budget: int, rows: int) -> None:
    limits = Limits(rows=rows, rows_while_awaited=rows - 1, prefill_rows=5, forwards_between_prefills=2)
    player = Player(ScriptedBackend(SCRIPT, vocab_size=VOCAB), limits)
    requests = []
    for target in (b"a", b"b"):
        player.greet(target, hello(gamma=GAMMA, kappa=KAPPA, roots=roots, budget=budget))
    for number, target in enumerate((b"a", b"a", b"b")):
        requests.append(Request(player, target, number))
        requests[-1].open(number, window=number != 1)

    def deliver() -> None:
        for target in (b"a", b"b"):
            for message in player.take(target):
                next(r for r in requests if r.number == message.stamp.request).hear(message)  # type: ignore[union-attr]

    for name, which, pick in operations:
        request = requests[which]
        match name:
            case "commit":
                request.commit(pick)
            case "signal":
                request.signal(pick)
            case "step":
                for _ in range(pick % 4):
                    player.service.step()
            case "settle":
                player.settle()
            case "again":  # what was said before comes late, a second time
                if isinstance(old := request.last[pick % len(request.last)], Commit | Signal):
                    player.say(request.target, old)
            case "open":
                request.open(pick, window=bool(pick % 2))
            case "close":
                player.say(request.target, Close((request.number,)))
                request.open(pick, window=True)
        # A target may have sent its next word before it hears of the last.
        if pick % 3:
            deliver()
    player.settle()
    deliver()
    for request in requests:
        assert request.window is not None or not request.awaited, "a target waits for ever"
