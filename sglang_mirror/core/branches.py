"""The branch table: windows that are ready for outcomes that have not happened yet."""

from __future__ import annotations

from dataclasses import dataclass, field

from sglang_mirror.core.roots import Source
from sglang_mirror.core.verify import Outcome
from sglang_mirror.core.window import Window


@dataclass(frozen=True, slots=True)
class Branch:
    """The window that would come next, were `window.root` the correction, and whose guess it was."""

    window: Window
    source: Source


@dataclass(slots=True)
class BranchTable:
    """The branches of one request for the window being verified.

    Attributes:
        committed_len: tokens committed when that window was sent; a branch for another length is stale.
    """

    committed_len: int = 0
    branches: dict[tuple[int, int], Branch] = field(default_factory=dict)

    def restart(self, committed_len: int) -> None:
        """Forget every branch: the outcome is known and a new window is being verified."""
        self.committed_len = committed_len
        self.branches.clear()

    def put(self, committed_len: int, node: int, branch: Branch) -> bool:
        """Keep a branch for (node, branch.window.root); False if it is stale and was dropped.

        Of two branches for one outcome the longer is kept, the first if they are as long.
        """
        if committed_len != self.committed_len:
            return False
        held = self.branches.setdefault((node, branch.window.root), branch)
        if len(branch.window) > len(held.window):
            self.branches[node, branch.window.root] = branch
        return True

    def look_up(self, outcome: Outcome) -> Branch | None:
        """The branch of the real outcome: a hit, or None: a miss."""
        return self.branches.get((outcome.node, outcome.correction))
