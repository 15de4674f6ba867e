"""Letters as devices leave them: each number says its step, its rank and its cell."""

from __future__ import annotations

import torch

from sglang_mirror.engine.mailbox import Place

ROWS, WIDTH = 6, 4
DEADLINE_S = 10.0


def places_for(ranks: int, memory: torch.Tensor | None = None) -> list[Place]:
    """Empty ones, in this memory or one of their own."""
    length = Place.length(ROWS, WIDTH)
    memory = torch.zeros(ranks * length, dtype=torch.int32) if memory is None else memory
    return [Place(each, WIDTH) for each in memory.view(ranks, length)]


def letter_of(step: int, rank: int, rows: int = ROWS) -> torch.Tensor:
    cells = torch.arange(rows * WIDTH, dtype=torch.int32).view(rows, WIDTH)
    return cells + 1000 * step + 100 * rank


def letters_of(step: int, ranks: int, rows: int = ROWS) -> torch.Tensor:
    return torch.stack([letter_of(step, rank, rows) for rank in range(ranks)])


def begin(place: Place, step: int, letter: torch.Tensor) -> None:
    """All of it but the tail."""
    place.head.fill_(step)
    place.letter[: len(letter)].copy_(letter)


def end(place: Place, step: int) -> None:
    place.tail.fill_(step)


def write(place: Place, step: int, letter: torch.Tensor) -> None:
    begin(place, step, letter)
    end(place, step)
