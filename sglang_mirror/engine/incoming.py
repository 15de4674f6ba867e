"""What a draft sends is checked before a target computes it: a wrong draft costs time and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from sglang_mirror.core.growth import WindowShape
from sglang_mirror.core.window import Window, depths
from sglang_mirror.errors import ProtocolError


def checked_window(
    root: int, tokens: Sequence[int], parents: Sequence[int], *, shape: WindowShape, vocab_size: int
) -> Window | None:
    """The window that a draft describes, up to the first token that the target does not know.

    Args:
        root: its first token.
        tokens: its draft tokens.
        parents: their parents, as on the wire.
        shape: what a window may be.
        vocab_size: the target's token ids are below it; a draft's padded vocabulary may have more.

    Returns:
        None if the target does not know the root.

    Raises:
        ProtocolError: it is no window of that shape.
    """
    try:
        window = Window((root, *tokens), (-1, *parents))
    except ValueError as error:
        raise ProtocolError(f"the draft sent a window that is no tree: {error}") from error
    if len(tokens) > shape.size or max(depths(window.parents)) > shape.depth or _too_wide(window, shape.topk):
        raise ProtocolError(
            f"the draft sent a window of {len(tokens)} tokens that is larger, deeper or wider than agreed: "
            f"{shape.size} tokens, depth {shape.depth}, {shape.topk} children a node"
        )
    strange = [index for index, token in enumerate(window.tokens) if not 0 <= token < vocab_size]
    if not strange:
        return window
    return window.first(strange[0]) if strange[0] else None


def _too_wide(window: Window, topk: int) -> bool:
    """Also if siblings carry the same token: verification would never come to the second."""
    siblings = Counter(window.parents)
    pairs = set(zip(window.parents, window.tokens, strict=True))
    return max(siblings.values()) > topk or len(pairs) < len(window)
