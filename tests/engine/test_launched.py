"""Which tokens SGLang has not taken in, where it takes results in at once and where a forward later."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
import torch

from sglang_mirror.core.growth import WindowShape
from sglang_mirror.engine.launched import Launched

SHAPE = WindowShape.chain(3)


@dataclass
class Req:
    """What is looked at of SGLang's request."""

    rid: str
    output_ids: list[int] = field(default_factory=list)
    ended: bool = False

    def finished(self) -> bool:
        return self.ended


@dataclass
class Result:
    """What is looked at of SGLang's result, whose fields SGLang overwrites with copies still on their way."""

    next_token_ids: torch.Tensor
    accept_lens: torch.Tensor


def verified(rows: list[list[int]]) -> Result:
    padded = [row + [0] * (SHAPE.num_nodes - len(row)) for row in rows]
    return Result(torch.tensor(padded).flatten(), torch.tensor([len(row) for row in rows]))


def take_in(reqs: list[Req], rows: list[list[int]]) -> None:
    for req, row in zip(reqs, rows, strict=True):
        req.output_ids += row


@pytest.mark.parametrize("late", [0.0, 0.5, 1.0])
def test_output_and_unread_are_all_that_was_said(late: float) -> None:
    """SGLang takes results in a forward later, at once, or now one way, now the other."""
    rng = random.Random(7)
    reqs = [Req(name) for name in "abc"]
    whole: dict[str, list[int]] = {req.rid: [rng.randrange(99)] for req in reqs}
    last = Launched.prefill(reqs, Result(torch.tensor([whole[req.rid][0] for req in reqs]), torch.tensor([])))
    waiting = [(reqs, [whole[req.rid][:1] for req in reqs])]
    for _ in range(40):
        if rng.random() >= late:  # before the next forward, as where overlapping is not possible
            while waiting:
                take_in(*waiting.pop(0))
        batch = rng.sample(reqs, rng.randint(1, 3)) if not waiting else waiting[-1][0]
        unread = [last.unread(req) for req in batch]
        for req, tokens in zip(batch, unread, strict=True):
            assert [*req.output_ids, *tokens] == whole[req.rid]
        rows = [[rng.randrange(99) for _ in range(rng.randint(1, 4))] for _ in batch]
        result = verified(rows)
        last = Launched.decode(batch, unread, result, SHAPE)
        result.next_token_ids = result.accept_lens = torch.zeros(0)
        for req, row in zip(batch, rows, strict=True):
            whole[req.rid] += row
        while waiting:  # during the forward
            take_in(*waiting.pop(0))
        waiting.append((batch, rows))
        assert last.tokens == rows


def test_nothing_is_waited_for_that_was_taken_in() -> None:
    def fetch() -> list[list[int]]:
        raise AssertionError("waited for the device")

    req = Req("a", [1])
    last = Launched([req], fetch)
    req.output_ids.append(2)
    assert last.unread(req) == []
    assert last.unread(Req("b", [5])) == []


def test_what_is_verified_beyond_a_requests_end_is_nobodys() -> None:
    goes_on, ends, is_verified_for_nobody = reqs = [Req("a", [1]), Req("b", [1]), Req("c", [1])]
    unread = [[2], [2], [2, 3]]
    rows = [[4], [5, 6], [7]]
    last = Launched.decode(reqs, unread, verified(rows), SHAPE)
    take_in([goes_on, ends], [[2], [2]])
    is_verified_for_nobody.output_ids.append(2)  # its end
    is_verified_for_nobody.ended = True
    assert last.kept == [[4], [5, 6], []]
    take_in([goes_on, ends], [[4], [5]])  # its end
    ends.ended = True
    assert last.kept == [[4], [5, 6], []]
    assert [last.taken_in(req.rid) for req in reqs] == [True, True, False]
