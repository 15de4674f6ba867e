"""When the platform volunteers, and that asking costs nothing."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from sglang_mirror import platform


@pytest.fixture
def bare_host(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A host without an accelerator, without other plugins and without settings, wherever this test runs."""
    for name in ("SGLANG_USE_CPU_ENGINE", "SGLANG_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(platform, "entry_points", lambda **_: [SimpleNamespace(name="mirror_torch")])
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    for module in ("cuda", "xpu", "mps", "npu", "hpu", "musa"):
        if hasattr(torch, module):
            monkeypatch.setattr(getattr(torch, module), "is_available", lambda: False)
    return monkeypatch


@pytest.mark.usefixtures("bare_host")
def test_serves_a_bare_host() -> None:
    assert platform.activate() == platform.PLATFORM_CLASS


@pytest.mark.parametrize("module", ["cuda", "xpu", "mps"])
def test_leaves_an_accelerator_alone(bare_host: pytest.MonkeyPatch, module: str) -> None:
    bare_host.setattr(getattr(torch, module), "is_available", lambda: True)
    assert platform.activate() is None


def test_leaves_a_privately_registered_accelerator_alone(bare_host: pytest.MonkeyPatch) -> None:
    bare_host.setattr(torch, "npu", SimpleNamespace(is_available=lambda: True), raising=False)
    assert platform.activate() is None


def test_leaves_sglangs_cpu_engine_alone(bare_host: pytest.MonkeyPatch) -> None:
    bare_host.setenv("SGLANG_USE_CPU_ENGINE", "1")
    assert platform.activate() is None


def test_leaves_another_plugins_platform_alone_unless_named(bare_host: pytest.MonkeyPatch) -> None:
    installed = [SimpleNamespace(name="mirror_torch"), SimpleNamespace(name="someones_tpu")]
    bare_host.setattr(platform, "entry_points", lambda **_: installed)
    assert platform.activate() is None
    bare_host.setenv("SGLANG_PLATFORM", "mirror_torch")
    assert platform.activate() == platform.PLATFORM_CLASS


def test_importing_costs_neither_torch_nor_sglang() -> None:
    code = (
        "import sys, sglang_mirror.platform, sglang_mirror.platform.install; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'sglang')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
