"""A rank of a target that hears from the first one what to verify; and what the worker asks of any rank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sglang_mirror.core.window import Window
from sglang_mirror.engine.early_exit import Publish

Windows = list[Window | None]


class FollowingRank:
    """A rank that hears from the first one what to verify, and leaves everything else to it.

    Args:
        group: SGLang's group of the target's ranks.
    """

    def __init__(self, group: Any) -> None:
        self._group = group

    def wait_until_ready(self) -> None:
        """The first rank waits for the draft."""

    def open(self, reqs: Sequence[Any]) -> None:
        """Requests are being prefilled."""

    def windows(
        self,
        _reqs: Sequence[Any],
        _unread: Sequence[Sequence[int]],
        _cycle_s: float | None,
        *,
        sampled: bool,  # noqa: ARG002 - the leading rank's form
    ) -> tuple[Windows, bool]:
        """Each request's window, None where it has none; and whether the early exit is read."""
        found: tuple[Windows, bool] = self._group.broadcast_object(None, src=0)
        return found

    def publisher(self, windows: Windows) -> Publish:  # noqa: ARG002 - the leading rank's form
        """Where the early exit's candidates of these windows' verification go."""
        return lambda _tokens, _logprobs: None

    def commit(
        self,
        windows: Windows,
        committed: Sequence[list[int]],
        times: tuple[float, float],
        *,
        num_rows: int,
        exit_s: float | None,
    ) -> None:
        """What the requests of the last `windows` commit.

        Args:
            windows: as they were verified.
            committed: tokens of each request; none if it had ended before.
            times: when verification began and ended.
            num_rows: that it had, of all requests together.
            exit_s: seconds for which the early exit held it up; None if that was not read.
        """

    def close(self, rids: Sequence[str]) -> None:
        """These requests are over."""

    def report(self) -> dict[str, Any]:
        """What there is to say of the draft."""
        return {}
