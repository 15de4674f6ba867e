"""A streaming draft: the loop computes what its training did, and windows cost fewer forwards."""

from __future__ import annotations

import json
import random
import weakref
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from sglang_mirror.bench.pair import embedded_pair
from sglang_mirror.core.agreement import Agreement
from sglang_mirror.core.growth import WindowShape
from sglang_mirror.core.roots import Candidates
from sglang_mirror.draft.backends.base import Segment
from sglang_mirror.draft.backends.load import load_torch
from sglang_mirror.draft.backends.scripted import ScriptedBackend, hash_script
from sglang_mirror.draft.backends.streams import FILE
from sglang_mirror.draft.backends.torch_backend import TorchBackend
from sglang_mirror.draft.growing import grow_behind
from sglang_mirror.draft.scheduler import Limits
from sglang_mirror.draft.tree import Node
from sglang_mirror.errors import SettingsError
from sglang_mirror.protocol.messages import Branches, FreshWindow, Open, Stamp
from sglang_mirror.train.shapes import draft_config
from sglang_mirror.train.start import start_model
from sglang_mirror.train.streaming import StreamingModel, load_streaming, save_streaming
from sglang_mirror.upscale.folder import make_folder
from sglang_mirror.upscale.shape import parse_shape
from tests.draft.draft_playing import Player, hello

VOCAB, COUNT = 61, 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded draft with streams that were never trained: large enough to matter."""
    source, folder = embedded_pair().draft, tmp_path_factory.mktemp("streaming") / "draft"
    student = StreamingModel(start_model(source.parent, "draft", draft_config()), count=COUNT, num_layers=1)
    with torch.no_grad():
        student.streams.embeddings *= 20
    save_streaming(student, source, folder, "")
    return folder


def all_streams(backend: TorchBackend, segments: Sequence[Segment]) -> torch.Tensor:
    """Logits of all streams of all wanted rows [w, 1 + count, V], the main stream's first."""
    rows, first = list[int](), 0
    for segment in segments:
        rows += [first + row for row in segment.wanted]
        first += len(segment.tokens)
    return torch.cat((backend.logits(segments)[:, None], backend.ahead(rows)), 1)


def test_the_loop_is_what_was_trained(folder: Path) -> None:
    """On a tree with forks, in the middle of a text, two requests in one forward."""
    backend = load_torch(str(folder), device="cpu", dtype="float32", threads=1)
    trained = load_streaming(folder)
    rng = random.Random(4)
    texts = [[rng.randrange(4096) for _ in range(length)] for length in (9, 14)]
    segments, paths = [], []
    for text in texts:
        cache = backend.new_cache()
        first = len(text) - 1
        seen = [(2 << row) - 1 for row in range(first)]
        backend.logits([Segment(cache, text[:first], range(first), 0, 0, seen, ())])
        # root, its children a and b, a's child c
        a, b, c = (rng.randrange(4096) for _ in range(3))
        tokens, places = [text[-1], a, b, c], [first, first + 1, first + 1, first + 2]
        segments.append(Segment(cache, tokens, places, first, first, [1, 3, 5, 11], [0, 1, 3]))
        paths += [text, [*text, a], [*text, a, c]]
    found = all_streams(backend, segments)
    torch.testing.assert_close(backend.ahead([1, 7]), found[[1, 5], 1:])
    along = backend.logits(segments, [0, 1, 3, 4, 5, 7])
    torch.testing.assert_close(along[:6], found[:, 0])
    torch.testing.assert_close(along[6:].unflatten(0, (-1, COUNT)), found[:, 1:])
    for row, path in enumerate(paths):
        with torch.inference_mode():
            wanted = trained(torch.tensor([path]))[0, :, -1]
        torch.testing.assert_close(found[row], wanted, atol=2e-3, rtol=2e-3)


def test_streams_are_the_same_along_and_afterwards(folder: Path) -> None:
    """Of a node and two guesses: of all rows at once, or of the last right one."""
    backend = load_torch(str(folder), device="cpu", dtype="float32", threads=1)
    rows = range(3)
    segment = Segment(backend.new_cache(), [7, 8, 9], rows, 0, 0, [1, 3, 7], rows, streamed=rows)
    (along,) = backend.forward([segment], 3)
    backend.most_along = 0
    (afterwards,) = backend.forward([segment], 3)
    assert [len(said.ahead) for said in along] == [COUNT] * 3
    asked = [place for place, said in enumerate(afterwards) if said.ahead]
    assert len(asked) == 1
    for ours, theirs in zip(along, afterwards, strict=True):
        assert ours.next.tokens == theirs.next.tokens
    for ours_ahead, theirs_ahead in zip(along[asked[0]].ahead, afterwards[asked[0]].ahead, strict=True):
        assert ours_ahead.tokens == theirs_ahead.tokens
        assert ours_ahead.logprobs == pytest.approx(theirs_ahead.logprobs, abs=1e-4)


@pytest.mark.parametrize("most_along", [16, 0])
def test_a_request_that_ends_leaves_no_kv_behind(folder: Path, most_along: int) -> None:
    """Streams are asked for within a forward, so what they branch off from ends with it."""
    backend = load_torch(str(folder), device="cpu", dtype="float32", threads=1)
    backend.most_along, cache = most_along, backend.new_cache()
    rows = range(3)
    segment = Segment(cache, [7, 8, 9], rows, 0, 0, [1, 3, 7], rows, streamed=rows)
    assert any(said.ahead for said in backend.forward([segment], 3)[0])
    there = weakref.ref(cache)
    del cache, segment
    assert there() is None


@pytest.mark.parametrize("shape", ["12m", "192x500x7x4x2x64x5000"])
def test_enlarged_it_says_the_same(folder: Path, tmp_path: Path, shape: str) -> None:
    rng = random.Random(6)
    text = [rng.randrange(4096) for _ in range(12)]
    said = []
    for each in (folder, make_folder(folder, parse_shape(shape), tmp_path / "large")):
        backend = load_torch(str(each), device="cpu", dtype="float32", threads=1)
        seen = [(2 << row) - 1 for row in range(len(text))]
        segment = Segment(backend.new_cache(), text, range(len(text)), 0, 0, seen, range(len(text)))
        said.append(all_streams(backend, [segment])[..., :4096])
    torch.testing.assert_close(said[1], said[0], atol=2e-3, rtol=2e-3)


def test_refusals(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    for entry, said in (
        ({"count": 3, "layers": 1}, "3 streams need"),
        ({"count": COUNT, "layers": 4}, "the model has 2"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({**config, "mirror_streams": entry}))
        with pytest.raises(SettingsError, match=said):
            load_torch(str(tmp_path), device="cpu", dtype="float32", threads=1)
    (tmp_path / FILE).unlink()
    with pytest.raises(SettingsError, match="promises"):
        load_torch(str(tmp_path), device="cpu", dtype="float32", threads=1)


SCRIPT = hash_script(VOCAB, order=3)


def ahead(wrong: int) -> object:
    """Streams that say what the script would, but err after texts whose sum is a multiple of `wrong`."""

    def say(prefix: Sequence[int], count: int) -> tuple[Candidates, ...]:
        path, said = list(prefix), []
        for _ in range(COUNT):
            path.append(SCRIPT(path, 1).tokens[0])
            found = SCRIPT(path, count)
            if sum(prefix) % wrong == 0:
                found = Candidates(tuple((token + 1) % VOCAB for token in found.tokens), found.logprobs)
            said.append(found)
        return tuple(said)

    return say


def window_of(backend: ScriptedBackend, gamma: int) -> tuple[tuple[int, ...], int]:
    """The first window of a request, and the forwards that it took."""
    player = Player(backend)
    player.greet(b"t", hello(gamma=gamma, roots="none"))
    prompt = [3, 1, 4, 1, 5, 9, 2, 6]
    player.say(b"t", Open(Stamp(0, 0, len(prompt)), "r", tuple(prompt), True))
    player.settle()
    [fresh] = [message for message in player.take(b"t") if isinstance(message, FreshWindow)]
    return fresh.tokens, backend.num_forwards


@pytest.mark.parametrize("gamma", [1, 3, 7, 8])
def test_right_guesses_save_forwards_and_change_nothing(gamma: int) -> None:
    plainly, forwards = window_of(ScriptedBackend(SCRIPT, vocab_size=VOCAB), gamma)
    streamed, fewer = window_of(ScriptedBackend(SCRIPT, vocab_size=VOCAB, ahead=ahead(10**9)), gamma)  # type: ignore[arg-type]
    assert streamed == plainly
    assert forwards == gamma
    assert fewer == -(-gamma // (COUNT + 1))


def test_wrong_guesses_cost_no_more_and_only_the_last_tokens() -> None:
    gamma = 7
    plainly, _ = window_of(ScriptedBackend(SCRIPT, vocab_size=VOCAB), gamma)
    streamed, forwards = window_of(ScriptedBackend(SCRIPT, vocab_size=VOCAB, ahead=ahead(1)), gamma)  # type: ignore[arg-type]
    assert streamed[: gamma - COUNT] == plainly[: gamma - COUNT]
    assert forwards == gamma - COUNT


def test_branches_come_too() -> None:
    player = Player(ScriptedBackend(SCRIPT, vocab_size=VOCAB, ahead=ahead(3)))  # type: ignore[arg-type]
    player.greet(b"t", hello(gamma=5, topk=2, nodes=8, roots="draft", budget=6))
    player.say(b"t", Open(Stamp(0, 0, 3), "r", (1, 2, 3), True))
    player.settle()
    said = player.take(b"t")
    branches = [each for message in said if isinstance(message, Branches) for each in message.branches]
    assert len({(each.node, each.token) for each in branches}) == 6
    assert max(len(each.tokens) for each in branches) == 7


def test_branches_may_do_without_guesses() -> None:
    """Where rows cost time: as many rows and forwards as a plain draft's branches have, behind its window."""
    gamma, said = 5, list[list[object]]()
    rows = []
    for streams in ({}, {"ahead": ahead(10**9)}):
        backend = ScriptedBackend(SCRIPT, vocab_size=VOCAB, **streams)  # type: ignore[arg-type]
        player = Player(backend, Limits(streamed_branches=False))
        player.greet(b"t", hello(gamma=gamma, roots="draft", budget=6))
        player.say(b"t", Open(Stamp(0, 0, 3), "r", (1, 2, 3), True))
        player.settle()
        branches = [m for m in player.take(b"t") if isinstance(m, Branches)]
        said.append([(each.node, each.token, each.tokens) for m in branches for each in m.branches])
        rows.append(backend.num_rows)
    assert sorted(said[0]) == sorted(said[1])
    assert rows[0] == rows[1]


def test_guesses_of_a_growing_window() -> None:
    root = Node(7, None, 0)
    growing = grow_behind(root, WindowShape.chain(5), Agreement())
    root.candidates = Candidates((1, 2), (-0.1, -3.0))
    root.ahead = (Candidates((4,), (-0.2,)), Candidates((5,), (-0.3,)))
    assert not growing.extend()
    [tip] = growing.tips()
    assert (tip.token, tip.position) == (5, 3)
    assert tip.parent is not None
    assert tip.parent.token == 4
