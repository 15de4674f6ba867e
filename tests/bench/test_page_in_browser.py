"""The page in a real browser: drawn, with the JSON's numbers, and nothing asked of a network."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sglang_mirror.bench.report import HEADS, html, row
from tests.bench.test_report import OURS, Cells, content

__all__ = ["content"]

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)

pytestmark = pytest.mark.skipif(not BROWSER, reason="no chromium on this machine; CI installs it")


def opened(page: Path) -> str:
    """The document as the browser has it once it is drawn."""
    assert BROWSER
    command = [BROWSER, *QUIET, f"--user-data-dir={page.parent / 'profile'}", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_drawn_with_the_jsons_numbers(content: dict[str, Any], tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(html(content), encoding="utf-8")
    found = Cells()
    found.feed(opened(page))
    rows = {cells[0]: tuple(cells) for cells in found.rows if len(cells) == len(HEADS)}
    assert rows["mirror"] == row(OURS)


def test_every_picture_takes_room_and_nothing_is_fetched(content: dict[str, Any], tmp_path: Path) -> None:
    """As the browser counts: a script of the test's, not of the page's, writes down what was laid out."""
    page = tmp_path / "measured.html"
    script = """<script>
      const boxes = [...document.querySelectorAll("section svg")].map(each => each.getBoundingClientRect());
      const fetched = performance.getEntriesByType("resource").map(each => each.name);
      document.title = JSON.stringify([boxes.map(box => [box.width, box.height]), fetched]);
    </script></body>"""
    page.write_text(html(content).replace("</body>", script), encoding="utf-8")
    boxes, fetched = json.loads(opened(page).partition("<title>")[2].partition("</title>")[0])
    assert len(boxes) == 4
    assert all(width > 300 and height > 50 for width, height in boxes)
    assert fetched == []
