"""What was asked for beside what was found: the figure, the verdict, and that nobody rounds a miss up."""

from __future__ import annotations

from typing import Any

import pytest

from sglang_mirror.bench.judges import (
    at_least,
    at_most,
    explained,
    faster,
    fastest_of,
    field,
    law_of_latency,
    lawful,
    leading_mirror,
    least_same_text,
    quotient,
    same_texts,
    unharmed,
    verdict,
)
from sglang_mirror.bench.results_wanted import BILLIONS, GPU_FILES, HEAD, wanted_rows
from tests.bench.test_report import NUMBERS, OURS, content, entry
from tests.bench.test_results import compared

__all__ = ["compared", "content"]


@pytest.mark.parametrize(
    ("least", "said"),
    [
        (1.6, "yes"),
        (1.93, "yes; interval from 1.70"),
        (1.94, "**no**; interval to 2.20"),
        (2.21, "**no**"),
    ],
)
def test_a_verdict_says_where_the_interval_leaves_it_open(least: float, said: str) -> None:
    assert verdict(NUMBERS, least) == said


@pytest.mark.parametrize(("least", "said"), [(1.93, "yes"), (1.94, "**no**")])
@pytest.mark.parametrize("ends", [None, 1.93])
def test_without_an_interval_the_ratio_decides(ends: float | None, least: float, said: str) -> None:
    assert verdict({**NUMBERS, "low": ends, "high": ends}, least) == said


def test_speeds() -> None:
    slow = {**NUMBERS, "of_totals": 1.2, "low": 1.1, "high": 1.3}
    found = {"results": [{**OURS, "ratios": {"eagle3": slow}}, entry("serial", speedup=slow)]}
    assert faster(1.6, "plain", temperature=0)(found) == ("1.93 (1.70 to 2.20)", "yes")
    assert faster(1.3, "eagle3")(found) == ("1.20 (1.10 to 1.30)", "**no**; interval to 1.30")
    assert faster(1.3, "standalone")(found) is None
    assert faster(1.3, "eagle3", target="0.25b")(found) is None
    assert fastest_of("mirror", "serial")(found) == ("1.93 times plain; the others 1.20", "yes")
    assert fastest_of("serial", "mirror")(found) == ("1.20 times plain; the others 1.93", "**no**")
    assert fastest_of("mirror", "eagle3")(found) is None


def test_of_several_arms_of_mirror_the_first_is_named() -> None:
    def arm(name: str, ratio: float, **facts: Any) -> dict[str, Any]:
        return entry(name, ratios={"plain": {**NUMBERS, "of_totals": ratio}}, **facts)

    alone = [arm("serial:a=1", 1.9), arm("mirror:a=1", 1.8), arm("mirror:a=2", 2.0)]
    found = {"results": [*alone, arm("mirror:a=3", 3.0, concurrency=4)]}
    assert leading_mirror(2.8, "plain", concurrency=1)(found) == (
        "1.80 (1.70 to 2.20), `mirror:a=1`",
        "**no**",
    )


def test_figures_and_quotients_of_them() -> None:
    found = {"results": [OURS, entry("serial", accept_len=4.0)]}
    assert at_least(0.7, field("mirror", "hit_rate", "all"))(found) == ("0.81", "yes")
    assert at_least(0.7, field("serial", "hit_rate", "all"))(found) is None
    ratio = quotient(field("mirror", "accept_len"), field("serial", "accept_len"))
    assert at_least(1.17, ratio)(found) == ("1.16", "**no**")
    assert at_most(1.17, ratio, "{:.1%}")(found) == ("116.0%", "yes")


def test_texts_laws_loads() -> None:
    texts = {"results": [OURS, entry("plain"), entry("serial", temperature=1.0, text_equal=0.0)]}
    assert same_texts(texts) == ("1 of 2 results", "**no**")
    assert least_same_text(concurrency=1)(texts) == ("50% of the texts", "**no**")
    assert least_same_text(concurrency=8)(texts) is None
    groups = {"hit": {"num_tokens": 20000}, "fresh": {"num_tokens": 500}}
    laws = [{"holds": holds, "groups": groups} for holds in (True, False)]
    assert lawful({"results": laws}) == ("1 of 2 settings, 20,500 tokens or more each", "**no**")
    load = {"lost": 0, "wrong_text": 1, "requests": 1739, "faults": [{}] * 10}
    assert unharmed(load) == ("0 lost, 1 wrong of 1,739 requests, 10 faults", "**no**")
    rows = [{"failed": None}, {"failed": "fa3 is not installed"}]
    assert explained({"results": rows}) == ("1 of 2 servers", "**no**")
    assert explained({"results": rows[:1]}) == ("1 of 1 servers", "yes")


def test_the_law_of_latency_is_judged_by_parts_measured_apart(compared: dict[str, Any]) -> None:
    said, met = law_of_latency(compared) or ("", "")
    assert "apart 1 of 1 cells within 10%" in said
    assert met == "yes"
    ours = compared["results"][2]
    step = {**ours["step_ms"], "target": 17.0, "wall": 23.5}
    later = [*compared["results"][:2], {**ours, "step_ms": step}]
    said, met = law_of_latency({**compared, "results": later}) or ("", "")
    assert "apart 0 of 1 cells" in said
    assert met == "by the second reading only"


def test_a_figure_is_in_the_first_file_that_has_it() -> None:
    large = entry("mirror:draft_device=cuda:1", ratios={"plain": NUMBERS}, **BILLIONS[32])
    files = {GPU_FILES[0]: {"results": []}, GPU_FILES[2]: {"results": [large]}}
    rows = list(wanted_rows(files.get, lambda name: f"[{name}]"))
    assert {len(row) for row in rows} == {len(HEAD)}
    [row] = [row for row in rows if row[0].startswith("GPU, 32 billion: 2.8 times plain")]
    assert row[1:] == ["1.93 (1.70 to 2.20), `mirror:draft_device=cuda:1`", "**no**", "[gpu-32b.json]"]
    assert all(row[1:3] == ["-", "not measured"] for row in rows if "[" not in row[3])
