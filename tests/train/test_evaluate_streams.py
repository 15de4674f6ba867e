"""Forwards that check their own guesses: on a counting draft whose streams err where they are told to."""

from __future__ import annotations

import torch

from sglang_mirror.train.evaluate_streams import Proposal, rolled_out


class Counting:
    """After token n comes n + 1; stream j says n + 1 + j, but after a multiple of `wrong` it errs."""

    def __init__(self, wrong: int) -> None:
        self.wrong = wrong

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        ahead = torch.arange(1, 4)[:, None]
        said = tokens[0] + ahead
        said[1:, tokens[0] % self.wrong == 0] = 0
        return torch.nn.functional.one_hot(said, 99)[None].float()


def test_guesses_that_hold_save_forwards() -> None:
    window, forwards = rolled_out(Counting(98), [5], gamma=7, streams=2)  # type: ignore[arg-type]
    assert (window, forwards) == ([6, 7, 8, 9, 10, 11, 12], 3)


def test_guesses_that_fail_cost_none() -> None:
    window, forwards = rolled_out(Counting(1), [5], gamma=7, streams=2)  # type: ignore[arg-type]
    assert window[:5] == [6, 7, 8, 9, 10]
    assert forwards == 5  # the last forward's guesses stand, unchecked


def test_without_streams_each_token_takes_one() -> None:
    assert rolled_out(Counting(1), [5], gamma=4, streams=0) == ([6, 7, 8, 9], 4)  # type: ignore[arg-type]


def test_a_proposal_keeps_what_held() -> None:
    window = Proposal([1], [2, 9])
    window.take([2, 3, 4], [[5, 6, 7]])
    assert (window.confirmed, window.guessed) == ([1, 2, 3], [6])
