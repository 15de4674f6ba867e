"""Where a forward has one shape, plain steps have another one of their own, and the text is plain decoding's.

On a GPU these are captured graphs. Here the same two ways are built and changed between, eagerly; see
tests/gpu for the graphs.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sglang_mirror.bench.pair import ROOT
from sglang_mirror.bench.server import Server
from tests.e2e.captured_widths import write_distribution
from tests.e2e.fleet import (
    LOGS,
    Fleet,
    draft_at,
    flags,
    generate_all,
    mirror_flags,
    prompts,
    report,
    texts,
    wait_for,
)

pytestmark = pytest.mark.server


def test_plain_steps_are_as_wide_as_they_need_be(
    fleet: Fleet, plain_server: Server, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder: Path = tmp_path_factory.mktemp("widths")
    write_distribution(folder)
    endpoint = f"ipc://{folder}/draft"
    path = os.pathsep.join([str(folder), str(ROOT), os.environ.get("PYTHONPATH", "")])
    words = mirror_flags(None, draft_endpoint=endpoint, start_timeout_s=1)
    server = fleet.launch("widths", flags(*words), environment={"PYTHONPATH": path}).wait()
    expected = texts(generate_all(plain_server, prompts(8), concurrency=4))
    assert texts(generate_all(server, prompts(8), concurrency=4)) == expected
    assert "mirror: plain steps were prepared for in" in (LOGS / "widths.log").read_text("utf-8")
    alone = report(server)
    assert alone["plain_nodes"] == 1
    assert alone["plain_steps"] == alone["steps"] > 0
    with draft_at(endpoint, fleet.pair):
        wait_for(lambda: report(server)["draft"] == "ready")
        assert texts(generate_all(server, prompts(8), concurrency=4)) == expected
        both = report(server)
        assert both["accept_len"] > alone["accept_len"]
    assert texts(generate_all(server, prompts(8), concurrency=4)) == expected
    assert report(server)["plain_steps"] > both["plain_steps"]
    fleet.stop("widths")
