"""Arms from words."""

from __future__ import annotations

import itertools
import shlex
import subprocess
from pathlib import Path

import pytest

from sglang_mirror.bench.arm_specs import KEYS, Setup, parse_arm
from sglang_mirror.bench.arms import Cores, Pair
from sglang_mirror.bench.pair import ROOT
from sglang_mirror.errors import MirrorError

PAIR = Pair(Path("/models/target"), Path("/models/draft"))
SETTINGS = {
    "mirror": {"gamma": "6", "exit_layer": "4"},
    "serial": {"gamma": "6"},
    "standalone": {"topk": "4"},
}
SETUP = Setup(PAIR, Cores((0,), (1,)), SETTINGS)


def test_plain_adds_nothing() -> None:
    assert parse_arm("plain", SETUP).flags == ()
    assert parse_arm("plain:cores=all", SETUP).all_cores


def test_mirror_takes_the_setups_settings_and_its_own() -> None:
    flags = " ".join(parse_arm("mirror:roots=exit,kappa=3,gamma=2", SETUP).flags)
    assert "--speculative-num-steps 2 --speculative-eagle-topk 1" in flags
    assert "--mirror-exit-layer 4" in flags
    assert "--mirror-roots exit --mirror-kappa 3" in flags
    assert "--mirror-draft-cpus 1" in flags


def test_trees() -> None:
    flags = " ".join(parse_arm("mirror:topk=4,nodes=16", SETUP).flags)
    assert "--speculative-num-steps 6 --speculative-eagle-topk 4 --speculative-num-draft-tokens 16" in flags
    assert parse_arm("mirror:window=chain", SETUP).flags[4:8] == (
        "--speculative-num-steps",
        "15",
        "--speculative-eagle-topk",
        "1",
    )


def test_the_streaming_draft() -> None:
    assert "--streaming" in parse_arm("serial:draft=streaming", SETUP).missing
    setup = Setup(PAIR, SETUP.cores, SETTINGS, streaming=Path("/models/streaming"))
    flags = parse_arm("serial:draft=streaming", setup).flags
    assert "/models/streaming" in flags
    assert flags[5:] == parse_arm("serial:draft=plain", setup).flags[5:]


def test_without_a_draft() -> None:
    arm = parse_arm("mirror:draft=none", SETUP)
    assert "--mirror-draft-endpoint ipc:///nonexistent/draft" in " ".join(arm.flags)
    assert not arm.has_draft
    assert parse_arm("mirror", SETUP).has_draft


def test_serial_is_the_same_draft_without_roots() -> None:
    flags = " ".join(parse_arm("serial", SETUP).flags)
    assert "--mirror-roots none" in flags
    assert "--speculative-num-steps 6" in flags
    assert "exit" not in flags


def test_sglangs_own() -> None:
    flags = " ".join(parse_arm("standalone:steps=3,topk=2,nodes=6", SETUP).flags)
    assert flags == (
        "--speculative-algorithm STANDALONE --speculative-draft-model-path /models/draft "
        "--speculative-num-steps 3 --speculative-eagle-topk 2 --speculative-num-draft-tokens 6"
    )
    assert "--speculative-num-draft-tokens 8" in " ".join(parse_arm("ngram", SETUP).flags)
    assert "--speculative-eagle-topk 4" in " ".join(parse_arm("standalone", SETUP).flags)
    assert "--speculative-eagle-topk 1" in " ".join(parse_arm("standalone:steps=2", SETUP).flags)


def test_an_arm_says_what_it_lacks() -> None:
    assert "--eagle3" in parse_arm("eagle3", SETUP).missing
    head = Setup(PAIR, SETUP.cores, eagle3=Path("/models/head"))
    arm = parse_arm("eagle3", head)
    assert not arm.missing
    assert "/models/head" in arm.flags


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mirrow", "no such arm; there are plain"),
        ("mirror:kapa=3", "'kapa=3' is no setting of mirror"),
        ("mirror:kappa", "'kappa' is no setting"),
        ("mirror:draft_model=/x", "is no setting"),
        ("serial:roots=exit", "is no setting of serial"),
        ("plain:steps=3", "is no setting of plain"),
        ("plain:cores=2", "cores is one or all"),
        ("mirror:gamma=many", "gamma=many"),
        ("mirror:draft=other", "draft=other: it is one of plain, streaming, none"),
        ("mirror:window=bush", "window=bush: it is one of chain, tree"),
        ("standalone:steps=0", "steps=0"),
    ],
)
def test_refusals(text: str, said: str) -> None:
    with pytest.raises(MirrorError, match=said) as error:
        parse_arm(text, SETUP)
    assert f"--arms {text}" in str(error.value)


def test_every_arm_of_the_design_is_known() -> None:
    assert set(KEYS) == {"plain", "standalone", "ngram", "eagle3", "serial", "mirror"}


def test_every_arm_of_the_makefile_is_one() -> None:
    targets = ("bench", "bench-all", "bench-stream", "bench-windows", "latency", "tune")
    command = ["make", "--dry-run", "--no-print-directory", *targets]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = 0
    for line in printed.replace("\\\n", " ").splitlines():
        words = iter(shlex.split(line))
        if "--arms" in words:  # which takes them up to there
            for text in itertools.takewhile(lambda word: not word.startswith("-"), words):
                assert parse_arm(text, SETUP).name == text
                found += 1
    assert found > 4 * len(targets)
