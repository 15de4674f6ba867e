"""The page has the figures of the JSON, draws them, and asks nothing of a network."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from sglang_mirror.bench.figures import bars
from sglang_mirror.bench.output import Output, read_results
from sglang_mirror.bench.report import HEADS, html, markdown
from sglang_mirror.bench.table import table
from sglang_mirror.errors import MirrorError

NUMBERS = {"median": 1.9, "low": 1.7, "high": 2.2, "of_totals": 1.93, "of_means": 1.88}


def entry(arm: str, **facts: Any) -> dict[str, Any]:
    return {
        "arm": arm,
        "target": "own",
        "workload": "chats",
        "temperature": 0.0,
        "concurrency": 1,
        "tokens_per_s": {"median": 123.4, "min": 100.0, "max": 130.0},
        "speedup": NUMBERS,
        "accept_len": 1.0,
        "accepted_histogram": None,
        "hit_rate": None,
        "hidden_fraction": None,
        "step_ms": None,
        "text_equal": 1.0,
        "command": f"python -m sglang.launch_server <{arm}>",
        **facts,
    }


OURS = entry(
    "mirror",
    accept_len=4.64,
    accepted_histogram=[4, 3, 2, 1],
    hit_rate={"all": 0.81, "draft": 0.76, "exit": 0.05},
    hidden_fraction=0.93,
    step_ms={
        **{"target": 14.0, "exit": 1.1, "draft_exposed": 1.0, "rendezvous": 0.4, "host": 4.0},
        "wall": 20.5,
    },
    text_equal=0.5,
)
TIMELINE = {
    "arm": "mirror",
    "steps": [
        {"began_ms": 0.0, "ended_ms": 9.0, "accepted": 3, "source": "draft"},
        {"began_ms": 9.5, "ended_ms": 19.0, "accepted": 0, "source": None},
    ],
    "forwards": [{"began_ms": 1.0, "ended_ms": 2.0, "rows": 7}],
}

OUTSIDE = {
    **{"arm": "mirror", "target": "own", "workload": "chats", "temperature": 0.0, "concurrency": 1},
    **{"completed": 4, "output_throughput": 98.76, "mean_ttft_ms": 12.0, "mean_tpot_ms": 9.0},
    "accept_length": None,
}


class Cells(HTMLParser):
    """Rows of table cells, and whatever the page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.fetched: list[str] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = self._inside or tag == "td"
        if tag == "tr":
            self.rows.append([])
        if tag == "td":
            self.rows[-1].append("")
        self.fetched += [
            f"{tag} {name}" for name, value in attrs if name in ("src", "href") and value and value[0] != "#"
        ]
        self.fetched += [tag] if tag in ("script", "link", "iframe", "img") else []

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.rows[-1][-1] += data

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag != "td"


@pytest.fixture
def content(tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "bench.json"
    output = Output(path)
    output.timeline = TIMELINE
    output.bench_serving = [OUTSIDE]
    output.add([entry("plain"), OURS], {"eagle3": "no <head>"})
    return read_results(path)


def test_every_figure_is_on_the_page(content: dict[str, Any]) -> None:
    page = Cells()
    page.feed(html(content))
    rows = {row[0]: row for row in page.rows if len(row) == len(HEADS)}
    assert rows["mirror"] == [
        *("mirror", "123.4", "1.93x", "1.70 to 2.20", "1.88x", "4.64", "0.81", "0.76", "0.05", "0.93", "50%")
    ]
    assert ["mirror", "own", "chats", "0.0", "1", "98.8", "12", "-"] in page.rows
    assert rows["plain"][5:] == ["1.00", "-", "-", "-", "-", "100%"]
    assert any("<mirror>" in cell for row in page.rows for cell in row)


def test_what_has_no_interval_and_what_cannot_be_the_same(content: dict[str, Any]) -> None:
    """One lap, as files have it now and as they had it before; and text that was sampled."""
    none, old = {**NUMBERS, "low": None, "high": None}, {**NUMBERS, "low": 1.93, "high": 1.93}
    for numbers in (none, old):
        entries = [entry("mirror", speedup=numbers, temperature=1.0)]
        said = markdown({**content, "results": entries})
        assert "| mirror | 123.4 | 1.93x | - | 1.88x | 1.00 | - | - | - | - | - |" in said
        assert "1.93 (-)" in table(entries)
        assert "100%" not in said + table(entries)
        assert "1.93x" in bars(entries)
        assert bars(entries).count("<path") < bars([OURS]).count("<path")


def test_the_terminal_has_the_ratio_that_the_interval_is_of() -> None:
    assert "1.93 (1.70 to 2.20)" in table([OURS])
    one_lap = {**NUMBERS, "low": None, "high": None}
    assert "1.93 (-)" in table([entry("mirror", speedup=one_lap)])


def test_nothing_is_fetched(content: dict[str, Any]) -> None:
    page = html(content)
    found = Cells()
    found.feed(page)
    assert found.fetched == []
    assert not re.search(r"url\((?!#)|@import", page)


def test_the_pictures_are_drawn(content: dict[str, Any]) -> None:
    page = html(content)
    assert page.count("<svg") == 4
    for text in ("1.93x", "draft tokens accepted in a step", "20.5 ms", "hit, the draft", "no &lt;head&gt;"):
        assert text in page


def test_without_a_timeline(content: dict[str, Any]) -> None:
    assert html({**content, "timeline": None}).count("<svg") == 3


def test_markdown(content: dict[str, Any]) -> None:
    assert "| mirror | 123.4 | 1.93x | 1.70 to 2.20 | 1.88x | 4.64 |" in markdown(content)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 2}', '{"schema": 1, "results": []}'])
def test_what_is_no_result(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(MirrorError, match=r"x\.json"):
        read_results(path)
