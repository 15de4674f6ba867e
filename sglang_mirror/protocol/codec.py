"""Bytes to messages and back. No pickle; what is too long or not ours is refused."""

from __future__ import annotations

from typing import Any

import msgspec

from sglang_mirror.errors import OtherVersionError, ProtocolError
from sglang_mirror.protocol.messages import VERSION, FromDraft, FromTarget, Message

# A prompt of a million tokens takes 5 MB, the signal for 512 windows of 64 nodes and 64 candidates 32.
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
# In every version of the protocol these begin with their tag and the version.
FIRST_WORDS = ("hello", "ready", "refused")


class Codec:
    """Encodes any message, decodes the kind that one side receives.

    Raises:
        OtherVersionError: from `decode`, if they are the first word of another version.
        ProtocolError: from `decode`, if the bytes are too many or are no message of that kind.
    """

    def __init__(self, kind: Any) -> None:
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(kind)

    def encode(self, message: Message) -> bytes:
        return self._encoder.encode(message)

    def decode(self, data: bytes) -> Any:
        if len(data) > MAX_MESSAGE_BYTES:
            raise ProtocolError(f"a message of {len(data)} bytes; at most {MAX_MESSAGE_BYTES} are accepted")
        try:
            return self._decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            if (theirs := _other_version(data)) is not None:
                raise OtherVersionError(
                    f"protocol version: the peer speaks {theirs}, we speak {VERSION}; install the same "
                    "sglang-mirror on both sides"
                ) from error
            raise ProtocolError(
                f"not a message of this protocol ({error}); is the peer sglang-mirror?"
            ) from error


def _other_version(data: bytes) -> int | None:
    """The version that a first word names, if it is not ours; None if it is no first word."""
    try:
        tag, version, *_ = msgspec.msgpack.decode(data, type=list[msgspec.Raw])
        if msgspec.msgpack.decode(tag, type=str) not in FIRST_WORDS:
            return None
        theirs = msgspec.msgpack.decode(version, type=int)
    except ValueError:  # fewer than two words, or none that can be read
        return None
    return theirs if theirs != VERSION else None


def target_codec() -> Codec:
    """What the target's side uses: decodes what a draft says."""
    return Codec(FromDraft)


def draft_codec() -> Codec:
    """What the draft's side uses: decodes what a target says."""
    return Codec(FromTarget)
