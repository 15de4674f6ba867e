"""Room in attention's page tables behind the context's end, beyond which a request's last windows reach."""

from __future__ import annotations

from typing import Any

# Of SGLang's backends that have others do the work.
PARTS = ("prefill_backend", "decode_backend", "full_attn_backend")


def make_room(backend: Any, num_nodes: int) -> None:
    """Widen the page tables of an attention backend that has any, before their graphs are captured.

    SGLang's rows end with the context. What a window has behind it, 0.5.17 writes to the beginning of the
    next request's row, and 0.5.23 reads on from there; behind the last row lies memory of something else.

    Args:
        backend: SGLang's, of the target; it makes its tables when it is asked for graphs.
        num_nodes: of a window. A request that has ended may be verified once more.
    """
    each = {id(part): part for part in (backend, *(getattr(backend, name, None) for name in PARTS))}
    for part in each.values():
        if hasattr(part, "max_num_pages"):
            part.max_context_len += 2 * num_nodes
            part.max_num_pages = -(-part.max_context_len // part.page_size)
