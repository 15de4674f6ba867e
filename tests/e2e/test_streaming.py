"""A streaming draft behind a real server: the text is plain decoding's, and windows take fewer forwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from sglang_mirror.bench.identity import divergences
from sglang_mirror.bench.server import Server
from sglang_mirror.train.shapes import draft_config
from sglang_mirror.train.start import start_model
from sglang_mirror.train.streaming import StreamingModel, save_streaming
from tests.e2e.fleet import GAMMA, Fleet, flags, generate_all, mirror_flags, prompts, report, with_draft

pytestmark = pytest.mark.server


def test_text_and_forwards(fleet: Fleet, plain_server: Server, tmp_path: Path) -> None:
    """Its streams were never trained: most of what they say is wrong, and costs nothing but time."""
    draft = fleet.pair.draft
    student = StreamingModel(start_model(draft.parent, "draft", draft_config()), count=2, num_layers=1)
    save_streaming(student, draft, tmp_path / "draft", "")
    server = fleet.launch("streaming", flags(*mirror_flags(tmp_path / "draft")))
    try:
        found = generate_all(with_draft(server), prompts(8), concurrency=4)
        assert divergences(found, generate_all(plain_server, prompts(8))) == []
        counted = report(server)
        assert counted["draft_windows"] > 0
        assert counted["draft_forwards"] < (GAMMA - 1) * counted["draft_windows"]
    finally:
        assert fleet.stop("streaming") == []
