"""Bytes to messages and back. No pickle; what is too long or not ours is refused."""

from __future__ import annotations

from typing import Any

import msgspec

from sglang_mirror.errors import ProtocolError
from sglang_mirror.protocol.messages import FromDraft, FromTarget, Message

# A prompt of a million tokens takes 5 MB; nothing that we send is longer.
MAX_MESSAGE_BYTES = 8 * 1024 * 1024


class Codec:
    """Encodes any message, decodes the kind that one side receives.

    Raises:
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
            raise ProtocolError(
                f"not a message of this protocol ({error}); is the peer sglang-mirror?"
            ) from error


def target_codec() -> Codec:
    """What the target's side uses: decodes what a draft says."""
    return Codec(FromDraft)


def draft_codec() -> Codec:
    """What the draft's side uses: decodes what a target says."""
    return Codec(FromTarget)
