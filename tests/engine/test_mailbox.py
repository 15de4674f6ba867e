"""The mailbox, with a thread that writes as a device's stream does: head, letter, tail, in that order."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator

import pytest
import torch

from sglang_mirror.engine.mailbox import Mailbox

ROWS, WIDTH = 6, 4
DEADLINE_S = 10.0
QUIET_S = 0.15


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    box = Mailbox(ROWS, WIDTH, pinned=False)
    yield box
    box.close()
    assert not box._thread.is_alive()


def begin(box: Mailbox, step: int, letter: torch.Tensor) -> None:
    """All of it but the tail."""
    box.head.fill_(step)
    box.letter[: len(letter)].copy_(letter)


def write(box: Mailbox, step: int, letter: torch.Tensor) -> None:
    begin(box, step, letter)
    box.tail.fill_(step)


def letter_of(step: int, rows: int = ROWS) -> torch.Tensor:
    return torch.arange(rows * WIDTH, dtype=torch.int32).view(rows, WIDTH) + 1000 * step


def test_letters_arrive_whole_and_in_order(mailbox: Mailbox) -> None:
    got: queue.Queue[torch.Tensor] = queue.Queue()
    for step in range(1, 30):
        rows = 1 + step % ROWS
        mailbox.expect(step, rows, got.put)
        if step % 3 == 0:
            time.sleep(0.001)
        write(mailbox, step, letter_of(step, rows))
        assert torch.equal(got.get(timeout=DEADLINE_S), letter_of(step, rows))
    assert got.empty()
    assert mailbox.torn == 0


def test_half_a_letter_is_not_taken(mailbox: Mailbox) -> None:
    got: queue.Queue[torch.Tensor] = queue.Queue()
    mailbox.expect(1, ROWS, got.put)
    begin(mailbox, 1, letter_of(1))
    with pytest.raises(queue.Empty):
        got.get(timeout=QUIET_S)
    mailbox.tail.fill_(1)
    assert torch.equal(got.get(timeout=DEADLINE_S), letter_of(1))


def test_a_letter_of_another_step_is_not_taken(mailbox: Mailbox) -> None:
    """A warm-up's, or one that nobody waited for any more."""
    got: queue.Queue[torch.Tensor] = queue.Queue()
    write(mailbox, 7, letter_of(7))
    mailbox.expect(8, ROWS, got.put)
    with pytest.raises(queue.Empty):
        got.get(timeout=QUIET_S)
    write(mailbox, 8, letter_of(8))
    assert torch.equal(got.get(timeout=DEADLINE_S), letter_of(8))


def test_a_late_letter_is_forgotten(mailbox: Mailbox) -> None:
    got: queue.Queue[torch.Tensor] = queue.Queue()
    mailbox.expect(1, ROWS, got.put)
    mailbox.forget()
    write(mailbox, 1, letter_of(1))
    with pytest.raises(queue.Empty):
        got.get(timeout=QUIET_S)
    mailbox.expect(2, ROWS, got.put)
    write(mailbox, 2, letter_of(2))
    assert torch.equal(got.get(timeout=DEADLINE_S), letter_of(2))


def test_a_letter_that_is_overwritten_meanwhile_is_dropped(mailbox: Mailbox) -> None:
    """The next one's head and rows are there already, its tail is not."""
    got: queue.Queue[torch.Tensor] = queue.Queue()
    write(mailbox, 1, letter_of(1))
    begin(mailbox, 2, letter_of(2, 3))
    mailbox.expect(1, ROWS, got.put)
    deadline = time.monotonic() + DEADLINE_S
    while not mailbox.torn:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert got.empty()
    mailbox.expect(2, 3, got.put)
    mailbox.tail.fill_(2)
    assert torch.equal(got.get(timeout=DEADLINE_S), letter_of(2, 3))


def test_a_taker_that_fails_does_not_end_the_thread(mailbox: Mailbox) -> None:
    got: queue.Queue[torch.Tensor] = queue.Queue()

    def fail(_letter: torch.Tensor) -> None:
        got.put(torch.zeros(0))
        raise RuntimeError("no line")

    mailbox.expect(1, ROWS, fail)
    write(mailbox, 1, letter_of(1))
    got.get(timeout=DEADLINE_S)
    mailbox.expect(2, ROWS, got.put)
    write(mailbox, 2, letter_of(2))
    assert torch.equal(got.get(timeout=DEADLINE_S), letter_of(2))


def test_who_is_patient_gets_a_late_letter(mailbox: Mailbox) -> None:
    got: queue.Queue[torch.Tensor] = queue.Queue()
    mailbox.expect(1, ROWS, got.put)
    late = threading.Timer(0.05, write, (mailbox, 1, letter_of(1)))
    late.start()
    mailbox.forget(DEADLINE_S)
    assert torch.equal(got.get_nowait(), letter_of(1))
