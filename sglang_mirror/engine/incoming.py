"""What a draft sends is checked before a target computes it: a wrong draft costs time and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from sglang_mirror.core.window import Window
from sglang_mirror.errors import ProtocolError


def chain_window(
    root: int, tokens: Sequence[int], parents: Sequence[int], *, gamma: int, vocab_size: int
) -> Window | None:
    """The window that a draft describes, up to the first token that the target does not know.

    Args:
        root: its first token.
        tokens: its draft tokens.
        parents: their parents, as on the wire.
        gamma: draft tokens in a window, at most.
        vocab_size: the target's token ids are below it; a draft's padded vocabulary may have more.

    Returns:
        None if the target does not know the root.

    Raises:
        ProtocolError: it is no chain of at most gamma tokens.
    """
    if len(tokens) > gamma or tuple(parents) != tuple(range(len(tokens))):
        raise ProtocolError(f"the draft sent a window that is no chain of {gamma} tokens at most")
    strange = [index for index, token in enumerate((root, *tokens)) if not 0 <= token < vocab_size]
    if not strange:
        return Window.chain(root, tokens)
    return Window.chain(root, tokens[: strange[0] - 1]) if strange[0] else None
