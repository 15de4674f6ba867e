"""The early exit of a target on several ranks, which are real processes in SGLang's own group.

What devices do on their streams, the ranks' own threads do here: find, and leave a letter in shared memory.
"""

from __future__ import annotations

import queue
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sglang_mirror.engine import shared_memory
from sglang_mirror.engine.early_exit import DirectExit
from sglang_mirror.engine.exit_head import ExitHead, TopKappa
from sglang_mirror.engine.mailbox import Mailbox, Place
from sglang_mirror.engine.shared_memory import attach, create, shared_numbers
from sglang_mirror.errors import MirrorError
from sglang_mirror_kernels.reference import exit_topk
from tests.engine.letters import DEADLINE_S, ROWS, begin, letter_of, letters_of, places_for, write
from tests.engine.rank_processes import Ranks, running

KAPPA, NODES, WIDTH, STEPS = 4, 5, 8, 20
LAST = 400  # step of those who hurry; after it nobody writes on
# Ids of each rank: the last has fewer than kappa of them.
SIZES = (24, 16, 3)


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    with running(len(SIZES)) as found:
        yield found


def folder() -> Path:
    return Path(shared_memory._folder() or "/tmp")


def left_files() -> set[Path]:
    return set(folder().glob("sglang-mirror-*"))


def whole(step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A step's hidden states, the head and the children, alike on all ranks."""
    generator = torch.Generator().manual_seed(step)
    vocabulary = sum(SIZES)
    hidden = torch.randn(NODES, WIDTH, generator=generator)
    head = torch.randn(vocabulary, WIDTH, generator=generator)
    return hidden, head, torch.randint(-1, vocabulary, (NODES, 2), generator=generator)


def wanted(step: int) -> TopKappa:
    hidden, head, children = whole(step)
    return exit_topk(hidden @ head.T, children, KAPPA)


def ids_of(group: Any) -> range:
    """This rank's."""
    start = sum(SIZES[: group.rank_in_group])
    return range(start, start + SIZES[group.rank_in_group])


def head_of(group: Any, step: Callable[[], int]) -> ExitHead:
    """This rank's part of the step's head."""
    ids = ids_of(group)
    return ExitHead(
        lambda hidden, _batch: hidden @ whole(step())[1][ids.start : ids.stop].T,
        KAPPA,
        start=ids.start,
        num_ranks=group.world_size,
    )


def assert_wanted(published: list[TopKappa]) -> None:
    assert len(published) == STEPS
    for step, (tokens, logprobs) in enumerate(published, 1):
        wanted_tokens, wanted_logprobs = wanted(step)
        assert torch.equal(tokens.long(), wanted_tokens)
        torch.testing.assert_close(logprobs, wanted_logprobs, atol=1e-5, rtol=1e-5)


def test_a_whole_head_needs_no_putting_together() -> None:
    hidden, weight, children = whole(1)
    head = ExitHead(lambda rows, _batch: rows @ weight.T, KAPPA)
    found = head.find(hidden, None, children)
    assert found.shape == (NODES, head.width) == (NODES, 2 * KAPPA)
    tokens, logprobs = head.merge(found[None])
    wanted_tokens, wanted_logprobs = wanted(1)
    assert torch.equal(tokens.long(), wanted_tokens)
    assert torch.equal(logprobs, wanted_logprobs)


def _direct(group: Any) -> list[Any]:
    published: list[Any] = []
    now = [0]
    found = DirectExit(head_of(group, lambda: now[0]), group)
    for step in range(1, STEPS + 1):
        now[0] = step
        hidden, _, children = whole(step)
        found.arm(children, lambda *candidates: published.append([each.tolist() for each in candidates]))
        assert found.wants(None)
        found.take(hidden, None)
        found.disarm(0.0)
    return published


def test_in_the_forwards_thread_the_first_rank_publishes_for_all(ranks: Ranks) -> None:
    first, *others = ranks.run(_direct)
    assert others == [[], []]
    assert_wanted([(torch.tensor(tokens), torch.tensor(logprobs)) for tokens, logprobs in first])


def _by_letters(group: Any) -> list[Any]:
    now = [0]
    head = head_of(group, lambda: now[0])
    length = Place.length(NODES, head.width)
    memory = shared_numbers(group, group.world_size * length, lambda _memory: None)
    places = [Place(each, head.width) for each in memory.view(group.world_size, length)]
    mailbox = Mailbox(places) if group.rank_in_group == 0 else None
    got: queue.Queue[TopKappa] = queue.Queue()
    published: list[Any] = []
    for step in range(1, STEPS + 1):
        now[0] = step
        hidden, _, children = whole(step)
        if mailbox is not None:
            mailbox.expect(step, NODES, lambda letters: got.put(head.merge(letters)))
        write(places[group.rank_in_group], step, head.find(hidden, None, children))
        if mailbox is not None:
            published.append([each.tolist() for each in got.get(timeout=DEADLINE_S)])
        group.broadcast_object(None, src=0)  # as the next step's windows are
    if mailbox is not None:
        mailbox.close()
    return published


def test_letters_of_other_processes_are_put_together(ranks: Ranks) -> None:
    before = left_files()
    first, *others = ranks.run(_by_letters)
    assert others == [[], []]
    assert_wanted([(torch.tensor(tokens), torch.tensor(logprobs)) for tokens, logprobs in first])
    assert left_files() == before


def _hasty(group: Any, last: int) -> list[tuple[int, list[Any]]]:
    """The others write what the first has begun, and after each third step half of the next one at once."""
    length = len(places_for(1)[0].numbers)
    memory = shared_numbers(group, group.world_size * length, lambda _memory: None)
    places = places_for(group.world_size, memory)
    rank, got, written = group.rank_in_group, queue.Queue[tuple[int, list[Any]]](), 0
    while rank and written < last:
        if (step := int(places[0].numbers[0])) > written:
            write(places[rank], step, letter_of(step, rank))
            if step % 3 == 0:
                begin(places[rank], step + 1, letter_of(step + 1, rank))
            written = step
    mailbox = Mailbox(places) if rank == 0 else None
    for step in range(1, last + 1) if mailbox is not None else ():
        mailbox.expect(step, ROWS, lambda letters, step=step: got.put((step, letters.tolist())))
        write(places[0], step, letter_of(step, 0))
        mailbox.forget(DEADLINE_S if step == last else 0.005)
    group.broadcast_object(None, src=0)
    if mailbox is not None:
        mailbox.close()
    return [got.get() for _ in range(got.qsize())]


def test_what_is_overwritten_by_another_process_is_dropped(ranks: Ranks) -> None:
    """Taken are letters of one step, whole, however the others hurry."""
    taken, *_ = ranks.run(_hasty, LAST)
    assert taken[-1][0] == LAST
    for step, letters in taken:
        assert torch.equal(torch.tensor(letters, dtype=torch.int32), letters_of(step, len(SIZES)))


def _refused(group: Any) -> str:
    def register(_memory: torch.Tensor) -> None:
        if group.rank_in_group == 1:
            raise MirrorError("cudaHostRegister of 400 bytes answers 2")

    with pytest.raises(MirrorError) as caught:
        shared_numbers(group, 100, register)
    return str(caught.value)


def test_what_one_rank_cannot_do_all_refuse_and_nothing_is_left(ranks: Ranks) -> None:
    before = left_files()
    for message in ranks.run(_refused):
        assert "cudaHostRegister of 400 bytes answers 2" in message
        assert "--mirror-roots draft" in message
    assert left_files() == before


class Deserted:
    """The group as the first rank sees it when another has died."""

    rank_in_group, world_size = 0, 2

    def broadcast_object(self, said: str, src: int) -> str:
        assert src == 0
        return said

    def all_gather_object(self, _said: object) -> list[object]:
        raise RuntimeError("Connection closed by peer")


def test_a_rank_that_dies_leaves_nothing() -> None:
    before = left_files()
    with pytest.raises(RuntimeError, match="closed by peer"):
        shared_numbers(Deserted(), 100, lambda _memory: None)
    assert left_files() == before


def _no_room(group: Any) -> str:
    with pytest.raises(MirrorError) as caught:
        shared_numbers(group, 2**60, lambda _memory: None)
    return str(caught.value)


def test_without_room_all_say_so(ranks: Ranks) -> None:
    for message in ranks.run(_no_room):
        assert f"{2**62} bytes in {folder()}" in message
        assert "--mirror-roots draft" in message


def test_the_file_is_its_owners_alone_and_full_of_zeros() -> None:
    path = create(1000)
    try:
        assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600
        memory, again = attach(path, 1000), attach(path, 1000)
    finally:
        Path(path).unlink()
    assert memory.shape == (1000,)
    assert not memory.any()
    memory[999] = 7
    assert again[999] == 7


def test_a_name_that_is_not_there_is_not_made() -> None:
    with pytest.raises(FileNotFoundError):
        attach(str(folder() / "sglang-mirror-nothing"), 10)


def test_too_much_leaves_nothing() -> None:
    before = left_files()
    with pytest.raises(OSError, match=r".*"):
        create(2**60)
    assert left_files() == before
