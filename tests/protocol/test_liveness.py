"""What the target believes of its draft, by what it hears and when; and the tokens they share."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sglang_mirror.errors import DraftError
from sglang_mirror.protocol.liveness import Liveness, Peer
from sglang_mirror.protocol.vocabulary import vocabulary_fingerprint, vocabulary_size


@pytest.mark.parametrize(
    ("events", "belief"),
    [
        ("", Peer.UNREACHED),
        ("heard@1 check@9", Peer.UNREACHED),
        ("lost@1 check@1", Peer.UNREACHED),
        ("ready@1 check@2", Peer.READY),
        ("ready@1 check@3.1", Peer.LOST),
        ("ready@1 heard@3 check@4.9", Peer.READY),
        ("ready@1 heard@3 check@5.1", Peer.LOST),
        ("ready@1 check@9 heard@9 check@9", Peer.LOST),
        ("ready@1 check@9 ready@10 check@11", Peer.READY),
        ("ready@1 lost@1 check@1", Peer.LOST),
        ("refused@1 check@9", Peer.REFUSED),
        ("refused@1 lost@2 heard@3 check@9", Peer.REFUSED),
    ],
)
def test_beliefs(events: str, belief: Peer) -> None:
    liveness = Liveness(timeout_s=2.0)
    for event in events.split():
        name, _, at = event.partition("@")
        if name in ("ready", "heard", "check"):
            getattr(liveness, name)(float(at))
        else:
            getattr(liveness, name)()
    assert liveness.state is belief


def write(folder: Path, content: object) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return str(folder)


def test_fingerprint_means_text_and_id(tmp_path: Path) -> None:
    plain = write(tmp_path / "a", {"model": {"vocab": {"x": 0, "y": 1}}})
    order = write(tmp_path / "b", {"model": {"vocab": {"y": 1, "x": 0}}, "version": "2"})
    ids = write(tmp_path / "c", {"model": {"vocab": {"x": 1, "y": 0}}})
    unigram = write(tmp_path / "d", {"model": {"vocab": [["x", -1.0], ["y", -2.0]]}})
    added = {"model": {"vocab": {"x": 0, "y": 1}}, "added_tokens": [{"content": "<s>", "id": 7}]}
    special = write(tmp_path / "e", added)
    first = vocabulary_fingerprint(plain)
    assert vocabulary_fingerprint(order) == vocabulary_fingerprint(unigram) == first
    assert len({first, vocabulary_fingerprint(ids), vocabulary_fingerprint(special)}) == 3
    assert (vocabulary_size(plain), vocabulary_size(special)) == (2, 8)


def test_a_model_without_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(DraftError, match="no tokenizer can be read"):
        vocabulary_fingerprint(str(tmp_path))
