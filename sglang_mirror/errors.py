"""The errors a user can meet. A leaf: imports nothing of ours."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence

# How a `SettingsError` reads: a head, and below it a line for each reason.
REFUSAL = "mirror cannot start:"
_REASON = "  - "


class MirrorError(Exception):
    """Base of everything this package raises for a user to read."""


class SettingsError(MirrorError, ValueError):
    """One or more settings cannot work; the message lists every reason at once."""

    def __init__(self, reasons: Sequence[str]) -> None:
        self.reasons = tuple(reasons)
        super().__init__("\n".join([REFUSAL, *(_REASON + reason for reason in self.reasons)]))


def reasons_in(lines: Iterable[str]) -> list[str]:
    """The reasons of a `SettingsError` that was written out, from lines that begin with them."""
    listed = itertools.takewhile(lambda line: line.startswith(_REASON), lines)
    return [line.removeprefix(_REASON) for line in listed]


class ProtocolError(MirrorError):
    """The peer is not ours, speaks another version, or sent what cannot be decoded."""


class OtherVersionError(ProtocolError):
    """The peer's first word is one of another version of the protocol."""


class DraftError(MirrorError):
    """The draft process could not be started or cannot serve the model asked for."""


@contextlib.contextmanager
def needing(extra: str) -> Iterator[None]:
    """What is imported in here needs what the extra installs; a command is named like its extra.

    Raises:
        MirrorError: it is not installed.
    """
    try:
        yield
    except ImportError as error:
        raise MirrorError(f"{extra} needs {error.name}: pip install '.[{extra}]' in a checkout") from error
