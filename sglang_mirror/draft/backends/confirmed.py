"""After which rows of a forward the streams have something new to say.

A forward of a streaming draft computes a node and the tokens that were guessed behind it. Where a guess was
right its row is the next node, and what the streams said before it is of no more use; where it was wrong its
row is nobody's. So they are asked after the last right one only: of three rows a node, one.
"""

from __future__ import annotations

from collections.abc import Sequence

from sglang_mirror.core.roots import Candidates
from sglang_mirror.draft.backends.base import Segment


def last_confirmed(segment: Segment, said: Sequence[Candidates]) -> list[int]:
    """Rows to be streamed that are right, as far as the draft knows, and are not followed by one that is.

    Args:
        segment: rows, those of ancestors before their descendants'.
        said: the candidates after each wanted row.

    Returns:
        places among the wanted rows, ascending.
    """
    place_of = {row: place for place, row in enumerate(segment.wanted)}
    confirmed: dict[int, bool] = {}  # by place: whether a right row follows
    for row, place in place_of.items():
        above = place_of.get(_parent(segment, row))
        if above is None:
            confirmed[place] = False
        elif above in confirmed and said[above].tokens[:1] == (segment.tokens[row],):
            confirmed[above], confirmed[place] = True, False
    streamed = set(segment.streamed)
    return [place for row, place in place_of.items() if row in streamed and confirmed.get(place) is False]


def _parent(segment: Segment, row: int) -> int:
    """The row before it on its path; one outside of the segment if it is the first there."""
    before = segment.seen[row] & ((1 << (segment.start - segment.prefix + row)) - 1)
    return before.bit_length() - 1 - (segment.start - segment.prefix)
