"""The errors a user can meet. A leaf: imports nothing of ours."""

from __future__ import annotations

from collections.abc import Sequence


class MirrorError(Exception):
    """Base of everything this package raises for a user to read."""


class SettingsError(MirrorError, ValueError):
    """One or more settings cannot work; the message lists every reason at once."""

    def __init__(self, reasons: Sequence[str]) -> None:
        self.reasons = tuple(reasons)
        super().__init__("mirror cannot start:\n" + "\n".join(f"  - {reason}" for reason in self.reasons))


class ProtocolError(MirrorError):
    """The peer is not ours, speaks another version, or sent what cannot be decoded."""


class DraftError(MirrorError):
    """The draft process could not be started or cannot serve the model asked for."""
