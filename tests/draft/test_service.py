"""Several targets, words that come late, and forwards that fail."""

from __future__ import annotations

import pytest

from sglang_mirror.core.roots import Candidates
from sglang_mirror.draft.backends.scripted import Faults, ScriptedBackend, hash_script
from sglang_mirror.draft.service import SESSION_TTL_S, TARGET_TTL_S
from sglang_mirror.errors import DraftError
from sglang_mirror.protocol.messages import (
    VERSION,
    Beat,
    Branches,
    Close,
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
from tests.draft.draft_playing import (
    VOCAB,
    VOCABULARY,
    Player,
    commit,
    hello,
    kinds,
    opening,
    player,
)

A, B = b"a", b"b"


@pytest.mark.parametrize(
    ("said", "reasons"),
    [
        (hello(version=9), [f"speaks 9, the draft {VERSION}"]),
        (hello(vocabulary="x"), [f"the target's is x, that of the draft scripted is {VOCABULARY}"]),
        (hello(topk=9), ["asks for 9 children"]),
        (hello(nodes=9), ["asks for 9 of 1 children"]),
        (hello(gamma=0), ["asks for 0, the draft accepts 1 to 999"]),
        (hello(gamma=1000), ["asks for 1000"]),
        (hello(kappa=VOCAB), ["asks for 61, the draft accepts 0 to 60"]),
        (hello(budget=-1, beat_ms=0, version=VERSION + 1), ["protocol version", "root budget", "beat"]),
    ],
)
def test_every_objection_is_said(said: Hello, reasons: list[str]) -> None:
    answer = player().greet(A, said)
    assert isinstance(answer, Refused)
    assert len(answer.reasons) == len(reasons)
    assert all(part in reason for part, reason in zip(reasons, answer.reasons, strict=True))


class Captured(ScriptedBackend):
    """Prepares for at most ten candidates a row."""

    prepared = (0, 0)

    def prepare(self, num_candidates: int, num_seen: int) -> None:
        if num_candidates > 10:
            raise RuntimeError("CUDA out of memory")
        self.prepared = num_candidates, num_seen


def test_what_a_target_will_ask_for_is_prepared_before_ready() -> None:
    backend = Captured(hash_script(VOCAB), vocab_size=VOCAB)
    playing = Player(backend)
    assert isinstance(playing.greet(A, hello(kappa=9)), Ready)
    assert backend.prepared == (10, 128)  # what a chunk of a prompt sees
    assert isinstance(playing.greet(B, hello(gamma=7, roots="draft", budget=31)), Ready)
    assert backend.prepared == (5, 16 + 32 * 8)
    answer = playing.greet(B, hello(kappa=12))
    assert isinstance(answer, Refused)
    [why] = answer.reasons
    assert why.startswith(
        "kappa, root budget: the target asks for 12 and 6, which the draft cannot compute: CUDA"
    )


def test_only_hello_is_answered_to_a_stranger() -> None:
    playing = player()
    for message in (opening(1, 3), commit(1, 4, 5), Close((1,)), Signal(())):
        playing.say(A, message)
    assert playing.settle() == 0
    assert playing.take(A) == []
    assert isinstance(playing.greet(A, hello()), Ready)


def test_two_targets_with_their_own_settings_and_numbers() -> None:
    playing = player()
    playing.greet(A, hello(gamma=2, roots="draft", budget=3))
    playing.greet(B, hello(gamma=5, roots="none"))
    playing.say(A, opening(1, 4))
    playing.say(B, opening(1, 9))
    playing.settle()
    to_a, to_b = playing.take(A), playing.take(B)
    assert [len(m.tokens) for m in to_a if isinstance(m, FreshWindow)] == [2]
    assert [len(m.tokens) for m in to_b if isinstance(m, FreshWindow)] == [5]
    branches = [branch for m in to_a if isinstance(m, Branches) for branch in m.branches]
    assert len(branches) == 3
    assert kinds(to_b) == ["FreshWindow"]
    playing.greet(A, hello())  # a new Hello: its old requests are gone, the other's are not
    playing.say(A, commit(1, 5, 7))
    playing.say(B, commit(1, 10, 7))
    playing.settle()
    assert kinds(playing.take(A)) == ["Failed"]
    assert kinds(playing.take(B)) == ["FreshWindow"]


def test_a_shared_forward_gives_each_target_its_own_number_of_candidates() -> None:
    playing = player()
    playing.greet(A, hello(gamma=2, kappa=1, roots="draft", budget=40))
    playing.greet(B, hello(gamma=2, kappa=8, roots="draft", budget=40))
    playing.say(A, opening(1, 4))
    playing.say(B, opening(1, 4))
    playing.settle()
    counts = [
        sum(len(m.branches) for m in playing.take(target) if isinstance(m, Branches)) for target in (A, B)
    ]
    assert counts == [1 + 1 + 2, 8 + 8 + 9]


def test_failed_with_the_reason() -> None:
    playing = player()
    playing.greet(A, hello(gamma=3))

    def reason(message: Message) -> str:
        playing.say(A, message)
        answers = playing.take(A)
        assert len(answers) == 1
        assert isinstance(answers[0], Failed)
        return answers[0].reason

    assert "takes at most 1993" in reason(opening(1, 1994))
    assert "outside the draft's vocabulary of 61" in reason(Open(Stamp(1, 0, 2), "r", (1, 61), True))
    assert "outside" in reason(Open(Stamp(1, 0, 1), "r", (-1,), True))
    assert "no tokens" in reason(Open(Stamp(1, 0, 0), "r", (), True))
    assert "2 tokens were sent, the stamp says 3" in reason(Open(Stamp(1, 0, 3), "r", (1, 2), True))
    assert "does not hold" in reason(commit(1, 3, 1))
    for wrong in (commit(1, 9, 1), commit(1, 4, 99), commit(1, 7, 1, generation=4), commit(1, 3)):
        playing.say(A, opening(1, 3))
        playing.settle()
        playing.take(A)
        if wrong.committed[0].stamp.committed_len == 3:
            playing.say(A, wrong)  # stale: dropped without a word
            assert playing.take(A) == []
        else:
            assert reason(wrong)


def test_what_another_stamp_has_overtaken_is_dropped() -> None:
    playing = player()
    playing.greet(A, hello(gamma=2, kappa=2))
    playing.say(A, opening(1, 3, generation=2))
    playing.settle()
    playing.take(A)
    said = ((1, 2), (1, 2), (1, 2)), ((-1.0, -2.0), (-1.0, -2.0), (-1.0, -2.0))
    for stale in (
        opening(1, 9, generation=1),
        commit(1, 4, 5, generation=1),
        Signal((ExitCandidates(Stamp(1, 2, 2), *said), ExitCandidates(Stamp(1, 1, 3), *said))),
        Signal((ExitCandidates(Stamp(1, 2, 3), said[0][:2], said[1][:2]),)),  # of another window
        Signal((ExitCandidates(Stamp(1, 2, 3), said[0], ((-1.0,),) * 3),)),  # uneven
        Signal((ExitCandidates(Stamp(9, 2, 3), *said),)),
    ):
        playing.say(A, stale)
        assert playing.settle() == 0
        assert playing.take(A) == []
    playing.say(A, Signal((ExitCandidates(Stamp(1, 2, 3), *said),)))
    playing.settle()
    assert playing.take(A)[-1].phase == 2  # type: ignore[attr-defined]


def test_exit_candidates_that_the_draft_cannot_embed_are_left_out() -> None:
    playing = player()
    playing.greet(A, hello(gamma=1, kappa=2, roots="exit", budget=4))
    playing.say(A, opening(1, 3))
    playing.settle()
    playing.take(A)
    logprobs = ((-1.0, float("nan")), (-1.0, -float("inf")))
    playing.say(A, Signal((ExitCandidates(Stamp(1, 0, 3), ((5, VOCAB), (-4, 6)), logprobs),)))
    playing.settle()
    tokens = {b.token for m in playing.take(A) for b in m.branches}  # type: ignore[attr-defined]
    assert tokens <= {5, 6}


def test_a_failed_forward_costs_its_requests_only() -> None:
    playing = player(fail_after=4)
    playing.greet(A, hello())
    playing.say(A, opening(1, 3))
    for _ in range(7):
        playing.service.step()
    assert isinstance(playing.take(A)[-1], Failed)
    assert playing.settle() == 0
    playing.backend._faults = Faults()  # type: ignore[attr-defined]
    playing.say(A, opening(1, 3, generation=1))
    playing.settle()
    assert kinds(playing.take(A))[0] == "FreshWindow"


def test_a_lost_accelerator_ends_the_process() -> None:
    playing = player(fail_after=1)
    playing.greet(A, hello())
    with pytest.raises(DraftError, match="scripted failed 3 times in a row: the script fails here"):
        for number in range(4):
            playing.say(A, opening(number, 3))
            playing.settle()


def test_beats_and_silence() -> None:
    playing = player()
    playing.greet(A, hello(beat_ms=500))
    playing.say(A, opening(1, 3))
    assert playing.service.beat(0.1) == pytest.approx(0.5)
    assert playing.take(A) == []
    assert playing.service.beat(0.6) == pytest.approx(1.1)
    playing.settle()
    beat = [m for m in playing.take(A) if isinstance(m, Beat)]
    assert [b.requests for b in beat] == [1]
    playing.service.beat(SESSION_TTL_S + 1)
    assert [m.requests for m in playing.take(A)] == [0]  # type: ignore[attr-defined]
    playing.service.beat(TARGET_TTL_S + 1)
    assert playing.take(A) == []


def test_a_target_that_has_gone_takes_its_requests_along() -> None:
    playing = player()
    playing.greet(A, hello(beat_ms=500))
    playing.greet(B, hello(beat_ms=500))
    playing.say(A, opening(1, 300))
    playing.gone.add(A)
    playing.service.beat(0.6)
    assert playing.settle() == 0
    playing.heard.clear()
    playing.service.beat(1.2)
    assert list(playing.heard) == [B]


def test_busy_time_is_the_rollouts_alone() -> None:
    playing = player(delay_s=0.01)
    playing.greet(A, hello(gamma=2, roots="none"))
    playing.say(A, opening(1, 200))
    playing.settle()
    (window,) = playing.take(A)
    assert isinstance(window, FreshWindow)
    assert 10 < window.work.busy_ms < 45  # two forwards of a rollout, two chunks of a prompt


def test_a_draft_with_fewer_candidates_than_asked_for() -> None:
    def script(prefix: object, count: int) -> Candidates:  # noqa: ARG001
        return Candidates((1,), (0.0,))

    playing = Player(ScriptedBackend(script, vocab_size=VOCAB))
    playing.greet(A, hello(gamma=2, budget=4))
    playing.say(A, opening(1, 3))
    playing.settle()
    assert kinds(playing.take(A)) == ["FreshWindow", "Branches"]
