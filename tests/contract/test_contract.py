"""Every SGLang name that we use is in every release that we support, as we use it: read, never imported."""

from __future__ import annotations

from functools import cache

import pytest
from packaging.version import Version

from sglang_mirror.platform import FIRST_RELEASE
from tests.contract import checks, hooked, ours
from tests.contract.expected import DIFFERENCES
from tests.contract.names import Release
from tests.contract.releases import RELEASES, UnavailableError, checked, installed, sources


@cache
def read(version: str) -> Release | str:
    """A release, or why it cannot be had."""
    try:
        return Release(version, sources(version))
    except UnavailableError as reason:
        return str(reason)


def readable(first: str = RELEASES[0]) -> list[Release]:
    found = [read(version) for version in checked() if Version(version) >= Version(first)]
    return [release for release in found if isinstance(release, Release)]


def test_the_installed_release_is_read() -> None:
    """Whatever the registry gives, something is checked wherever SGLang is."""
    here = installed()
    assert here is None or isinstance(read(here), Release)


@pytest.fixture(params=checked())
def release(request: pytest.FixtureRequest) -> Release:
    found = read(request.param)
    if isinstance(found, str):
        pytest.skip(found)
    return found


def of_engine(release: Release) -> set[str]:
    uses = ours.engine_uses()
    return {
        *checks.missing_names(release, uses),
        *checks.misfitting_calls(release, uses),
        *checks.misfitting_methods(release, uses, readable()),
        *checks.misfitting_hooks(release, hooked.seams(release.version)),
        *checks.unanswered_questions(release, uses),
        *checks.unknown_layers(release),
    }


def of_platform(release: Release) -> set[str]:
    uses = ours.platform_uses()
    return {
        *checks.missing_names(release, uses),
        *checks.misfitting_calls(release, uses),
        *checks.misfitting_methods(release, uses, readable(FIRST_RELEASE)),
        *checks.misfitting_hooks(release, hooked.platform_hooks()),
    }


def test_engine_and_patches(release: Release) -> None:
    expected = {row.finding for row in DIFFERENCES if row.holds(release.version)}
    found = of_engine(release)
    assert sorted(found - expected) == []
    if len(readable()) == len(checked()):  # that a method is asked for no more is seen in the others
        assert sorted(expected - found) == [], "rows of tests/contract/expected.py that are not true"


def test_platform(release: Release) -> None:
    """Whole from its first release on, and not before: else that could be an earlier one."""
    found = of_platform(release)
    if Version(release.version) >= Version(FIRST_RELEASE):
        assert sorted(found) == []
    else:
        assert found
