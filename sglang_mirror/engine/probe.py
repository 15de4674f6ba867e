"""Asks, before a server starts, who answers at the draft's endpoint that it was given."""

from __future__ import annotations

import time
from pathlib import Path

from sglang_mirror.config import MirrorConfig
from sglang_mirror.core.growth import WindowShape
from sglang_mirror.engine.draft_line import STRANGER
from sglang_mirror.errors import MirrorError, ProtocolError
from sglang_mirror.protocol.channel import TargetChannel
from sglang_mirror.protocol.messages import VERSION, Hello, Ready, Refused
from sglang_mirror.protocol.vocabulary import vocabulary_fingerprint

# A draft that is there answers between two forwards; one that is not there yet may come later.
ANSWER_TIMEOUT_S = 4.0
# Who listens there but has said no word of ZeroMQ by then is no draft: a web server waits for us to speak.
HANDSHAKE_MS = 2500
POLL_MS = 50


def hello(config: MirrorConfig, *, shape: WindowShape, target: str) -> Hello:
    """What a target with these settings says first.

    Raises:
        DraftError: the target's tokenizer cannot be read.
    """
    return Hello(
        version=VERSION,
        vocabulary=vocabulary_fingerprint(target),
        gamma=shape.depth,
        topk=shape.topk,
        nodes=shape.num_nodes,
        kappa=config.kappa,
        roots=config.root_mode,
        root_budget=config.root_budget,
        beat_ms=config.beat_ms,
        target=target,
    )


def endpoint_objections(config: MirrorConfig, *, shape: WindowShape, target: str) -> list[str]:
    """Why what answers at `config.draft_endpoint` cannot be our draft; empty if it can or nothing answers."""
    endpoint = config.draft_endpoint
    assert endpoint is not None
    try:
        said = hello(config, shape=shape, target=target)
        curve_dir = Path(config.curve_dir) if config.curve_dir else None
        with TargetChannel(endpoint, curve_dir=curve_dir, handshake_ms=HANDSHAKE_MS) as channel:
            return [f"--mirror-draft-endpoint {endpoint}: {reason}" for reason in _ask(channel, said)]
    except MirrorError as error:
        return [f"--mirror-draft-endpoint {endpoint}: {error}"]


def _ask(channel: TargetChannel, said: Hello) -> list[str]:
    deadline = time.monotonic() + ANSWER_TIMEOUT_S
    sent, failed = False, list[bool]()
    while time.monotonic() < deadline:
        sent = sent or channel.send(said)
        try:
            answer = channel.receive(POLL_MS)
        except ProtocolError as error:
            return [f"{error}"]
        if isinstance(answer, Ready):
            return []
        if isinstance(answer, Refused):
            return list(answer.reasons)
        failed += channel.failed_handshakes()
    if failed and not any(failed):  # else it may be a forwarder, and its draft come later
        return [f"{STRANGER}; name the endpoint of one that runs"]
    return []
