"""Installing: only where our platform is the active one, and every name it replaces exists in the host."""

from __future__ import annotations

from importlib import import_module
from types import SimpleNamespace

import pytest
from sglang.srt import platforms
from sglang.srt.plugins.hook_registry import HookRegistry

from sglang_mirror.platform import replacements
from sglang_mirror.platform.install import install
from sglang_mirror.platform.torch_platform import MirrorTorchPlatform


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The targets that are registered during a test, none of which reaches the registry."""
    targets: list[str] = []
    monkeypatch.setattr(HookRegistry, "register", lambda target, *_: targets.append(target))
    monkeypatch.setattr(replacements, "_set_samplers", lambda: targets.append("samplers"))
    monkeypatch.setattr(replacements, "register_attention_backend", lambda _: targets.append)
    return targets


def test_inert_on_another_platform(monkeypatch: pytest.MonkeyPatch, registered: list[str]) -> None:
    monkeypatch.setattr(platforms, "_current_platform", SimpleNamespace())
    install()
    assert registered == []


def test_registers_on_ours(monkeypatch: pytest.MonkeyPatch, registered: list[str]) -> None:
    monkeypatch.setattr(platforms, "_current_platform", MirrorTorchPlatform())
    install()
    assert {*replacements.REPLACED, *replacements.WRAPPED, *replacements.PACKING, "samplers"} <= {
        *map(str, registered)
    }


@pytest.mark.parametrize("target", [*replacements.REPLACED, *replacements.WRAPPED, *replacements.PACKING])
def test_the_host_has_what_we_replace(target: str) -> None:
    path, name = target.rsplit(".", 1)
    try:
        owner = import_module(path)
    except ModuleNotFoundError:
        path, class_name = path.rsplit(".", 1)
        owner = getattr(import_module(path), class_name)
    assert callable(getattr(owner, name))


@pytest.mark.parametrize("hook", [*replacements.WRAPPED.values(), *replacements.PACKING.values()])
def test_our_hooks_exist(hook: tuple[str, str]) -> None:
    module, name = hook
    assert callable(getattr(import_module(f"sglang_mirror.platform.{module}"), name))


def test_the_samplers_are_still_missing_from_the_host() -> None:
    """They are set as plain attributes because they are None there; once they are not, that must change."""
    eagle_utils = import_module("sglang.srt.speculative.eagle_utils")
    for name in ("tree_speculative_sampling_target_only", "top_k_renorm_prob", "top_p_renorm_prob"):
        theirs = getattr(eagle_utils, name)
        assert theirs is None or not theirs.__module__.startswith("torch")
