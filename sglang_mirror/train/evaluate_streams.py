"""What streams are worth: accepted length and forwards of a window, counted without a server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from sglang_mirror.train.generate import continue_rows
from sglang_mirror.train.streaming import StreamingModel

NUM_TOKENS = 96


@dataclass(slots=True)
class Proposal:
    """A window in the making: tokens that the main stream has confirmed, then guesses of the streams."""

    confirmed: list[int] = field(default_factory=list)
    guessed: list[int] = field(default_factory=list)

    def take(self, main: Sequence[int], streams: Sequence[Sequence[int]]) -> None:
        """One forward more: check the guesses, and make new ones behind those that held.

        Args:
            main: the main stream's token after the last confirmed token and after each guess, [1 + guesses].
            streams: each stream's tokens at the same places, [streams][1 + guesses].
        """
        held = 0
        while held < len(self.guessed) and self.guessed[held] == main[held]:
            held += 1
        self.confirmed += [*self.guessed[:held], main[held]]
        self.guessed = [tokens[held] for tokens in streams]


@torch.inference_mode()  # type: ignore[untyped-decorator]
def rolled_out(
    student: StreamingModel,
    text: Sequence[int],
    *,
    gamma: int,
    streams: int,
    device: torch.device | str = "cpu",
) -> tuple[list[int], int]:
    """A window after `text` [T] by the student on `device`, and how many forwards it took.

    The last tokens of a window may be guesses that no forward has checked: the target will.
    """
    window, forwards = Proposal(), 0
    while len(window.confirmed) + len(window.guessed) < gamma:
        rows = [*text, *window.confirmed, *window.guessed]
        said = student(torch.tensor([rows], device=device))[0, : 1 + streams].argmax(-1)  # [1 + streams, T]
        first = len(text) + len(window.confirmed) - 1
        main, *others = said[:, first:].tolist()
        window.take(main, others)
        forwards += 1
    return [*window.confirmed, *window.guessed][:gamma], forwards


def greedy_texts(target: Any, prompts: Sequence[list[int]]) -> list[list[int]]:
    """What `target` writes after each prompt at temperature 0, NUM_TOKENS tokens."""
    greedy = torch.tensor([0.0])
    return [continue_rows(target, torch.tensor([ids]), NUM_TOKENS, greedy)[0].tolist() for ids in prompts]


@torch.inference_mode()  # type: ignore[untyped-decorator]
def streaming_acceptance(
    student: StreamingModel,
    prompts: Sequence[list[int]],
    texts: Sequence[list[int]],
    *,
    gamma: int,
    streams: int,
) -> dict[str, Any]:
    """Accepted length and forwards a window, counted over texts as the target would have them.

    Args:
        student: the draft.
        prompts: token ids.
        texts: what is to be guessed behind each, as `greedy_texts` gives it.
        gamma: draft tokens in a window.
        streams: of the student's, how many are used; 0 is plain decoding by the draft.
    """
    device = next(student.parameters()).device
    steps = accepted = forwards = 0
    for ids, text in zip(prompts, texts, strict=True):
        done = 1  # the first token is the prefill's
        while done + gamma < len(text):
            said = [*ids, *text[:done]]
            window, count = rolled_out(student, said, gamma=gamma, streams=streams, device=device)
            agreed = 0
            while agreed < gamma and window[agreed] == text[done + agreed]:
                agreed += 1
            steps, accepted, forwards, done = (
                steps + 1,
                accepted + agreed,
                forwards + count,
                done + agreed + 1,
            )
    return {
        "gamma": gamma,
        "steps": steps,
        "accepted_len": 1 + accepted / steps,
        "forwards": forwards / steps,
    }
