"""The mailbox, with threads that write as devices' streams do: head, letter, tail, in that order."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator

import pytest
import torch

from sglang_mirror.engine.mailbox import LEAST_GROWTH_S, Mailbox
from tests.engine.letters import DEADLINE_S, ROWS, begin, end, letter_of, letters_of, places_for, write

QUIET_S = 0.15


@pytest.fixture(params=[1, 2, 4])
def ranks(request: pytest.FixtureRequest) -> int:
    count: int = request.param
    return count


@pytest.fixture
def mailbox(ranks: int) -> Iterator[Mailbox]:
    box = Mailbox(places_for(ranks))
    yield box
    box.close()
    assert not box._thread.is_alive()


def write_all(box: Mailbox, step: int, rows: int = ROWS) -> None:
    for rank, place in enumerate(box.places):
        write(place, step, letter_of(step, rank, rows))


def nothing_comes(got: queue.Queue[torch.Tensor]) -> None:
    with pytest.raises(queue.Empty):
        got.get(timeout=QUIET_S)


def test_letters_arrive_whole_and_in_order(mailbox: Mailbox, ranks: int) -> None:
    got: queue.Queue[torch.Tensor] = queue.Queue()
    for step in range(1, 30):
        rows = 1 + step % ROWS
        mailbox.expect(step, rows, got.put)
        if step % 3 == 0:
            time.sleep(0.001)
        write_all(mailbox, step, rows)
        assert torch.equal(got.get(timeout=DEADLINE_S), letters_of(step, ranks, rows))
    assert got.empty()
    assert mailbox.torn == 0


def test_half_a_letter_is_not_taken(mailbox: Mailbox, ranks: int) -> None:
    """Of the last rank; the others' are whole."""
    got: queue.Queue[torch.Tensor] = queue.Queue()
    mailbox.expect(1, ROWS, got.put)
    for rank, place in enumerate(mailbox.places[:-1]):
        write(place, 1, letter_of(1, rank))
    begin(mailbox.places[-1], 1, letter_of(1, ranks - 1))
    nothing_comes(got)
    end(mailbox.places[-1], 1)
    assert torch.equal(got.get(timeout=DEADLINE_S), letters_of(1, ranks))


def test_a_letter_of_another_step_is_not_taken(mailbox: Mailbox, ranks: int) -> None:
    """A warm-up's, or one that nobody waited for any more; in whichever order they come."""
    got: queue.Queue[torch.Tensor] = queue.Queue()
    write_all(mailbox, 7)
    mailbox.expect(8, ROWS, got.put)
    for rank, place in reversed(list(enumerate(mailbox.places))):
        nothing_comes(got)
        write(place, 8, letter_of(8, rank))
    assert torch.equal(got.get(timeout=DEADLINE_S), letters_of(8, ranks))


def test_a_late_letter_is_forgotten(mailbox: Mailbox, ranks: int) -> None:
    got: queue.Queue[torch.Tensor] = queue.Queue()
    mailbox.expect(1, ROWS, got.put)
    mailbox.forget()
    write_all(mailbox, 1)
    nothing_comes(got)
    mailbox.expect(2, ROWS, got.put)
    write_all(mailbox, 2)
    assert torch.equal(got.get(timeout=DEADLINE_S), letters_of(2, ranks))


@pytest.mark.parametrize("torn", [0, -1])
def test_a_letter_that_is_overwritten_meanwhile_is_dropped(mailbox: Mailbox, ranks: int, torn: int) -> None:
    """One rank's next head and rows are there already, its tail is not."""
    got: queue.Queue[torch.Tensor] = queue.Queue()
    write_all(mailbox, 1)
    begin(mailbox.places[torn], 2, letter_of(2, torn % ranks, 3))
    mailbox.expect(1, ROWS, got.put)
    deadline = time.monotonic() + DEADLINE_S
    while not mailbox.torn:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert got.empty()
    mailbox.expect(2, 3, got.put)
    write_all(mailbox, 2, 3)
    assert torch.equal(got.get(timeout=DEADLINE_S), letters_of(2, ranks, 3))


def test_a_taker_that_fails_does_not_end_the_thread(mailbox: Mailbox, ranks: int) -> None:
    got: queue.Queue[torch.Tensor] = queue.Queue()

    def fail(_letters: torch.Tensor) -> None:
        got.put(torch.zeros(0))
        raise RuntimeError("no line")

    mailbox.expect(1, ROWS, fail)
    write_all(mailbox, 1)
    got.get(timeout=DEADLINE_S)
    mailbox.expect(2, ROWS, got.put)
    write_all(mailbox, 2)
    assert torch.equal(got.get(timeout=DEADLINE_S), letters_of(2, ranks))


def test_who_is_patient_gets_a_late_letter(mailbox: Mailbox, ranks: int) -> None:
    got: queue.Queue[torch.Tensor] = queue.Queue()
    mailbox.expect(1, ROWS, got.put)
    late = threading.Timer(0.05, write_all, (mailbox, 1))
    late.start()
    mailbox.forget(DEADLINE_S)
    assert torch.equal(got.get_nowait(), letters_of(1, ranks))


def test_one_letter_that_took_long_is_not_usual(mailbox: Mailbox) -> None:
    """Nobody would look for the next ones until they are late."""
    got: queue.Queue[torch.Tensor] = queue.Queue()
    mailbox.expect(1, ROWS, got.put)
    threading.Timer(0.05, write_all, (mailbox, 1)).start()
    got.get(timeout=DEADLINE_S)
    assert mailbox._usual_s <= LEAST_GROWTH_S


@pytest.mark.parametrize("ranks", [3])
def test_a_rank_that_never_writes_holds_back_its_step_alone(mailbox: Mailbox, ranks: int) -> None:
    got: queue.Queue[torch.Tensor] = queue.Queue()
    mailbox.expect(1, ROWS, got.put)
    for rank in (0, 2):
        write(mailbox.places[rank], 1, letter_of(1, rank))
    nothing_comes(got)
    mailbox.forget()
    write(mailbox.places[1], 1, letter_of(1, 1))
    mailbox.expect(2, ROWS, got.put)
    write_all(mailbox, 2)
    assert torch.equal(got.get(timeout=DEADLINE_S), letters_of(2, ranks))


@pytest.mark.parametrize("ranks", [2])
def test_a_rank_that_is_ahead_ends_the_step_before(mailbox: Mailbox, ranks: int) -> None:
    """Its letter of that step is gone, so no letters are: none are put together of two steps."""
    got: queue.Queue[torch.Tensor] = queue.Queue()
    mailbox.expect(1, ROWS, got.put)
    for step in (1, 2):
        write(mailbox.places[1], step, letter_of(step, 1))
    write(mailbox.places[0], 1, letter_of(1, 0))
    nothing_comes(got)
    mailbox.expect(2, ROWS, got.put)
    write(mailbox.places[0], 2, letter_of(2, 0))
    assert torch.equal(got.get(timeout=DEADLINE_S), letters_of(2, ranks))


@pytest.mark.parametrize("ranks", [4])
def test_devices_that_wait_for_nobody_never_make_letters_of_two_steps(mailbox: Mailbox, ranks: int) -> None:
    """Each writes step after step; whatever is taken out is every rank's, whole, and of the awaited step."""
    last, got = 300, queue.Queue[tuple[int, torch.Tensor]]()
    numbers = [0] * ranks

    def device(rank: int) -> None:
        for step in range(1, last + 1):
            numbers[rank] = step
            write(mailbox.places[rank], step, letter_of(step, rank))

    devices = [threading.Thread(target=device, args=(rank,)) for rank in range(ranks)]
    for each in devices:
        each.start()
    while any(each.is_alive() for each in devices):
        step = min(last, max(numbers) + 1)
        mailbox.expect(step, ROWS, lambda letters, step=step: got.put((step, letters)))
        mailbox.forget(0.001)
    mailbox.expect(last, ROWS, lambda letters: got.put((last, letters)))
    mailbox.forget(DEADLINE_S)  # what nobody overwrites comes
    assert not got.empty()
    while not got.empty():
        step, letters = got.get()
        assert torch.equal(letters, letters_of(step, ranks))
