"""Settings: three spellings, one order, every mistake at once."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from sglang_mirror.config import CONFIG_FILE, MirrorConfig, flag, kinds, resolve, variable
from sglang_mirror.errors import SettingsError


def test_defaults_need_nothing() -> None:
    assert resolve({}) == MirrorConfig()


def test_variable_wins_over_file_over_default(tmp_path: Path) -> None:
    path = tmp_path / "mirror.toml"
    path.write_text('kappa = 4\nroots = "exit"\nmiss_wait_ms = 20\nlockstep = true\n', encoding="utf-8")
    config = resolve({CONFIG_FILE: str(path), "SGLANG_MIRROR_KAPPA": "6"})
    assert (config.kappa, config.roots, config.miss_wait_ms, config.lockstep) == (6, "exit", 20, True)
    assert config.root_budget == MirrorConfig().root_budget


@pytest.mark.parametrize(("text", "value"), [("1", True), ("yes", True), ("False", False), ("0", False)])
def test_switches(text: str, value: bool) -> None:
    assert resolve({"SGLANG_MIRROR_LOCKSTEP": text}).lockstep is value


def test_every_mistake_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mirror.toml"
    path.write_text('kapa = 4\nkappa = "four"\n', encoding="utf-8")
    environment = {CONFIG_FILE: str(path), "SGLANG_MIRROR_ROOT": "1", "SGLANG_MIRROR_LOCKSTEP": "maybe"}
    with pytest.raises(SettingsError) as caught:
        resolve(environment)
    text = str(caught.value)
    for words in (
        "unknown setting 'kapa'; did you mean kappa? known are",
        "kappa = 'four': expected int",
        "SGLANG_MIRROR_ROOT: unknown setting; did you mean SGLANG_MIRROR_ROOTS? known are",
        "='maybe': expected bool",
    ):
        assert words in text
    assert len(caught.value.reasons) == 4


def test_every_value_out_of_range_is_named() -> None:
    with pytest.raises(SettingsError) as caught:
        MirrorConfig(kappa=0, roots="all", beat_ms=1)  # type: ignore[arg-type]
    assert [reason.split()[0] for reason in caught.value.reasons] == [
        "--mirror-kappa",
        "--mirror-roots",
        "--mirror-beat-ms",
    ]


@pytest.mark.parametrize("settings", [{"roots": "none"}, {"roots": "exit"}, {"root_budget": 0}])
def test_without_branches_or_waits_nothing_is_speculated(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=r"--mirror-miss plain: with --mirror-roots .* choose wait"):
        MirrorConfig(miss="plain", **settings)


def test_lockstep_waits() -> None:
    with pytest.raises(SettingsError, match="--mirror-miss plain: --mirror-lockstep waits"):
        MirrorConfig(miss="plain", lockstep=True)


def test_a_beat_that_cannot_be_heard_in_time() -> None:
    with pytest.raises(SettingsError, match=r"--mirror-lost-after-ms 1000: .* --mirror-beat-ms 400"):
        MirrorConfig(beat_ms=400)
    assert MirrorConfig(beat_ms=400, lost_after_ms=1200).beat_ms == 400


@pytest.mark.parametrize("content", [None, b"kappa = ", b"\xff\xfe"])
def test_unreadable_file(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "mirror.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match=r"--mirror-config .*mirror\.toml"):
        resolve({CONFIG_FILE: str(path)})


def test_a_resolved_configuration_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        resolve({}).kappa = 1  # type: ignore[misc]


def test_every_replicas_draft_has_a_trace_of_its_own() -> None:
    config = MirrorConfig(draft_trace="forwards.jsonl")
    assert [config.of_replica(replica).draft_trace for replica in range(3)] == [
        *("forwards.jsonl", "forwards.jsonl.1", "forwards.jsonl.2")
    ]
    assert MirrorConfig().of_replica(1) == MirrorConfig()


def test_spellings() -> None:
    assert flag("exit_layer") == "--mirror-exit-layer"
    assert flag("draft_model") == "--speculative-draft-model-path"
    assert variable("exit_layer") == "SGLANG_MIRROR_EXIT_LAYER"
    assert all(item.metadata["help"] for item in dataclasses.fields(MirrorConfig))
    assert set(kinds().values()) <= {str, int, float, bool}
