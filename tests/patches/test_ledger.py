"""The seams: few, short, known to the host, and handing over unless mirror is asked for."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import importlib
import inspect
import os
from types import SimpleNamespace
from typing import Any

import pytest
import sglang

from sglang_mirror.config import MirrorConfig, flag
from sglang_mirror_patches import draft_kv, flags, server_info, verification
from sglang_mirror_patches.document import PATH, document
from sglang_mirror_patches.ledger import SEAMS, Seam

MOST_SEAMS, MOST_LINES = 9, 40


def test_few_and_each_once() -> None:
    assert len(SEAMS) <= MOST_SEAMS
    assert len({seam.target for seam in SEAMS}) == len(SEAMS)
    assert all(seam.why and seam.since and seam.remove_when for seam in SEAMS)


@pytest.mark.parametrize("seam", SEAMS, ids=lambda seam: seam.target.rpartition(".")[2])
def test_short(seam: Seam) -> None:
    assert len(inspect.getsource(seam.hook).splitlines()) <= MOST_LINES


@pytest.mark.parametrize("seam", SEAMS, ids=lambda seam: seam.target.rpartition(".")[2])
def test_the_host_has_it(seam: Seam) -> None:
    if not seam.fits(sglang.__version__):
        pytest.skip(f"only in {seam.only}")
    module, *names = _split(seam.target)
    found: Any = importlib.import_module(module)
    for name in names:
        found = getattr(found, name)
    assert callable(found)


def _split(target: str) -> list[str]:
    """The module, then the attributes in it: a class begins with a capital."""
    parts = target.split(".")
    first = next((i for i, part in enumerate(parts) if part[0].isupper()), len(parts) - 1)
    return [".".join(parts[:first]), *parts[first:]]


def test_document_is_up_to_date() -> None:
    assert PATH.read_text(encoding="utf-8") == document(), "run python -m sglang_mirror_patches.document"


def test_every_setting_has_a_flag() -> None:
    parser = argparse.ArgumentParser()
    flags.add_flags(None, parser)
    known = {option for action in parser._actions for option in action.option_strings}
    for item in dataclasses.fields(MirrorConfig):
        assert item.name == "draft_model" or flag(item.name) in known
    assert "--mirror-config" in known


def test_flags_hand_over_when_not_asked() -> None:
    before = dict(os.environ)
    args = argparse.Namespace(speculative_algorithm="EAGLE3", mirror_kappa=3)
    assert flags.read_flags(lambda cls, given: (cls, given), int, args) == (int, args)
    assert dict(os.environ) == before


def test_report_hands_over_without_our_worker() -> None:
    result = SimpleNamespace(internal_state={"a": 1})
    for scheduler in (SimpleNamespace(), SimpleNamespace(draft_worker=None), SimpleNamespace(draft_worker=3)):
        assert server_info.add_report(result, scheduler).internal_state == {"a": 1}

    async def original(manager: Any) -> list[dict[str, Any]]:  # noqa: ARG001
        return [{"a": 1}]

    assert asyncio.run(server_info.lift_report(original, None)) == [{"a": 1}]


def test_draft_kv_hands_over_for_other_algorithms() -> None:
    def original(**given: Any) -> Any:
        return given

    asked = {"spec_algorithm": "EAGLE3", "draft_worker": 1, "server_args": 2}
    assert draft_kv.without_ours(original, **asked) == asked


def test_verification_hands_over_for_other_algorithms() -> None:
    batch = SimpleNamespace(spec_algorithm=None)

    def original(*args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    said = verification.around_eagle_sample(original, 1, batch, 2, 3, extra=4)
    assert said == ((1, batch, 2, 3), {"extra": 4})
    assert verification.around_walk(original, 1, target_predict=2) == ((1,), {"target_predict": 2})
