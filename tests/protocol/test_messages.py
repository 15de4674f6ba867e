"""Every message survives the wire; what is no message is refused."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_mirror.errors import OtherVersionError, ProtocolError
from sglang_mirror.protocol import codec as codec_module
from sglang_mirror.protocol import messages as m
from sglang_mirror.protocol.codec import Codec, draft_codec, target_codec

STAMP = m.Stamp(3, 1, 40)
FROM_TARGET = [
    m.Hello(1, "v", 5, 1, 6, 8, "union", 12, 100, "t"),
    m.Open(STAMP, "r", (1, 2, 3), True),
    m.Commit((m.Committed(STAMP, (4, 5), 3), m.Committed(STAMP, (6,), 0))),
    m.Commit((m.Committed(STAMP, (4, 5), 3),), -2.5, 120.0, False),
    m.Signal((m.ExitCandidates(STAMP, ((1, 2), (3, 4)), ((-0.5, -1.5), (-0.25, -2.0))),)),
    m.Close((3, 4)),
]
FROM_DRAFT = [
    m.Ready(1, "v", "d", 77, "cpu", 2000),
    m.Refused(1, ("a", "b")),
    m.FreshWindow(STAMP, (1, 2), (0, 1), m.Work(1.5, 2, 7)),
    m.Branches(STAMP, (m.RolledOut(0, 9, "draft", (1, 2), (0, 1)),), 1, m.Work(2.5, 3, 9)),
    m.Branches(STAMP, (), 2, m.Work(2.5, 3, 9)),
    m.Failed(STAMP, "why"),
    m.Beat(2, m.Work(9.0, 4, 11)),
]
NOT_OURS = [b"", b"\x00", b"\xc1", b"GET / HTTP/1.1\r\n", msgspec.msgpack.encode(["hello"]), b"\x91\xa5\xff\xff\xff\xff\xff"]  # fmt: skip  # noqa: E501


@pytest.mark.parametrize("message", FROM_TARGET, ids=lambda each: type(each).__name__)
def test_from_target(message: m.Message) -> None:
    assert draft_codec().decode(target_codec().encode(message)) == message
    with pytest.raises(ProtocolError):
        target_codec().decode(target_codec().encode(message))


@pytest.mark.parametrize("message", FROM_DRAFT, ids=lambda each: type(each).__name__)
def test_from_draft(message: m.Message) -> None:
    assert target_codec().decode(draft_codec().encode(message)) == message
    with pytest.raises(ProtocolError):
        draft_codec().decode(draft_codec().encode(message))


@pytest.mark.parametrize("codec", [draft_codec(), target_codec()], ids=["draft", "target"])
@pytest.mark.parametrize("data", NOT_OURS)
def test_what_is_no_message_is_refused(codec: Codec[m.Message], data: bytes) -> None:
    with pytest.raises(ProtocolError, match="not a message of this protocol"):
        codec.decode(data)


@pytest.mark.parametrize("word", ["hello", "ready", "refused"])
def test_the_first_word_of_another_version_says_which(word: str) -> None:
    data = msgspec.msgpack.encode([word, m.VERSION + 1, {"what": "nobody knows"}, 3])
    for codec in (draft_codec(), target_codec()):
        with pytest.raises(OtherVersionError, match=f"speaks {m.VERSION + 1}, we speak {m.VERSION}"):
            codec.decode(data)


@pytest.mark.parametrize("words", [["hello", m.VERSION, 1], ["beat", 3], ["hello", "3"], [3, 3], ["ready"]])
def test_what_else_is_wrong_says_nothing_of_versions(words: list[object]) -> None:
    for codec in (draft_codec(), target_codec()):
        with pytest.raises(ProtocolError, match="not a message of this protocol"):
            codec.decode(msgspec.msgpack.encode(words))


def test_the_protocol_is_written_down_in_its_version() -> None:
    page = Path(__file__).parents[2] / "docs" / "protocol.md"
    assert f"Protocol version: **{m.VERSION}**." in page.read_text(encoding="utf-8")


@given(data=st.binary(max_size=200))
def test_no_bytes_break_the_decoder(data: bytes) -> None:
    for codec in (draft_codec(), target_codec()):
        with contextlib.suppress(ProtocolError):
            assert isinstance(codec.decode(data), m.Message)


@given(data=st.data())
def test_a_flipped_byte_is_refused_or_a_message(data: st.DataObject) -> None:
    message = data.draw(st.sampled_from(FROM_TARGET))
    raw = bytearray(draft_codec().encode(message))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ProtocolError):
        assert isinstance(draft_codec().decode(bytes(raw)), m.Message)


def test_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec_module, "MAX_MESSAGE_BYTES", 10)
    with pytest.raises(ProtocolError, match="a message of 11 bytes; at most 10"):
        draft_codec().decode(b"x" * 11)
