"""Torch references: any device, any dtype. What every faster kernel is tested against."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from sglang_mirror_kernels.rows import WORD_BITS, Layer, TreeRows

FORBIDDEN = torch.finfo(torch.float32).min  # in place of minus infinity


def exit_topk(
    logits: torch.Tensor,
    children: torch.Tensor,
    kappa: int,
    out: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The early exit's candidates at each node, the node's own children left out.

    Args:
        logits: early-exit logits, [N, V].
        children: tokens of each node's children, padded with -1, [N, c].
        kappa: candidates a node; kappa + c <= V.
        out: where both results go, contiguous; the ids there may be int32.

    Returns:
        Token ids int64 [N, kappa], most probable first, and their natural-log probabilities, float32
        [N, kappa], under the whole distribution: the children keep their share of it. A row with a NaN, or
        without any chance, has tokens as well, each minus infinity: an id that is none ends whoever looks it
        up on a GPU.
    """
    logprobs = torch.log_softmax(logits, -1, dtype=torch.float32)
    # With as many more as there are children, enough are left without them; to sort these few is cheap.
    values, tokens = torch.topk(logprobs, kappa + children.shape[1], dim=-1, sorted=False)
    # A forbidden token comes before the node's own: there may be no other.
    values = torch.nan_to_num_(values, nan=FORBIDDEN, neginf=FORBIDDEN)
    own = (tokens.unsqueeze(2) == children.unsqueeze(1)).any(-1)  # [N, kappa + c]
    values, order = torch.topk(values.masked_fill_(own, -torch.inf), kappa, dim=-1)
    found = tokens.gather(1, order), values.masked_fill_(values <= FORBIDDEN, -torch.inf)
    if out is None:
        return found
    out[0].copy_(found[0])
    out[1].copy_(found[1])
    return out


def promote(kv: torch.Tensor, slots: torch.Tensor, start: int) -> None:
    """Move what is in `slots` into the slots from `start` on, in that order, in place.

    Args:
        kv: keys and values, [2, layers, kv heads, capacity, head dim].
        slots: int64 [m]; they may overlap with where they go.
        start: slot of the first.
    """
    kv[:, :, :, start : start + slots.numel()] = kv.index_select(3, slots)


def branch_attention(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    seen: torch.Tensor,
    *,
    scale: float,
) -> torch.Tensor:
    """Attention of a request's tree rows: all see its text, and of its tree what `seen` says.

    Args:
        query: [heads, n, head dim].
        keys: of the text and, behind it, the tree, [kv heads, S, head dim]; heads is a multiple of kv heads.
        values: likewise.
        seen: which of the last t slots each row sees, bool [n, t].
        scale: of the scores.

    Returns:
        [heads, n, head dim].
    """
    text = seen.new_ones(seen.shape[0], keys.shape[1] - seen.shape[1])
    mask = torch.cat((text, seen), 1)
    return F.scaled_dot_product_attention(
        query[None], keys[None], values[None], attn_mask=mask, scale=scale, enable_gqa=True
    )[0]


def _kv(memory: torch.Tensor, rows: TreeRows, row: int, layer: Layer, dim: int) -> torch.Tensor:
    """The KV of a row's request in one layer, [2, kv heads, capacity, head dim]."""
    shape = (2, layer.num_layers, layer.num_kv_heads, int(rows.capacity[row]), dim)
    return memory.flatten()[int(rows.base[row]) :][: math.prod(shape)].view(shape)[:, layer.index]


def tree_attention(
    query: torch.Tensor, memory: torch.Tensor, rows: TreeRows, layer: Layer, *, scale: float
) -> torch.Tensor:
    """Attention of the tree rows of many requests, each over its own request's KV.

    Args:
        query: [rows, heads, head dim]; heads is a multiple of the KV heads.
        memory: what `rows.base` counts from; here all KV lies in it.
        rows: where their KV is and what they see.
        layer: whose KV is read.
        scale: of the scores.

    Returns:
        [rows, heads, head dim]; zeros for a row that fills up.
    """
    out = torch.zeros_like(query)
    bits = torch.arange(WORD_BITS, device=query.device)
    for row, num_slots in enumerate(rows.num_slots.tolist()):
        if num_slots:
            keys, values = _kv(memory, rows, row, layer, query.shape[2])[:, :, :num_slots]
            num_tree = num_slots - int(rows.prefix[row])
            seen = (rows.seen[:, row, None] >> bits & 1).flatten()[None, :num_tree] != 0
            out[row] = branch_attention(query[row, :, None], keys, values, seen, scale=scale)[:, 0]
    return out


def rotate(  # noqa: PLR0917 - of a layer, in the order in which it reads them
    qkv: torch.Tensor,
    norm: torch.Tensor | None,
    rope: torch.Tensor,
    positions: torch.Tensor,
    memory: torch.Tensor,
    rows: TreeRows,
    layer: Layer,
    *,
    eps: float,
    states: torch.Tensor | None = None,
) -> torch.Tensor:
    """Norm and rotary embedding of queries and keys; keys and values go to the rows' slots.

    Args:
        qkv: the rows' queries, keys and values, [rows, heads + 2 * kv heads, head dim].
        norm: RMSNorm's weight for each query and key head, [heads + kv heads, head dim]; None: no norm.
        rope: by position, cosines, and sines of which the first half is negated, [positions, 2, 1, head dim].
        positions: the rows' places in the text, int64 [rows].
        memory: as in `tree_attention`.
        rows: where their KV goes; nothing is written for a row that fills up.
        layer: whose KV is written.
        eps: of the norms.
        states: what `qkv` is a projection of, [rows, width], if that was not normed first; None if it was.

    Returns:
        Queries, [rows, heads, head dim].
    """
    dim, num_values = qkv.shape[2], layer.num_kv_heads
    if states is not None:
        qkv = _normed(qkv, states, eps)
    rotated = qkv[:, :-num_values].float()
    if norm is not None:
        rotated = F.rms_norm(rotated, (dim,), None, eps) * norm
    cos, sin = rope[positions].float().unbind(1)
    rotated = (rotated * cos + rotated.roll(dim // 2, -1) * sin).to(qkv.dtype)
    heads = rotated.shape[1] - num_values
    for row, num_slots in enumerate(rows.num_slots.tolist()):
        if num_slots:
            new = torch.stack((rotated[row, heads:], qkv[row, -num_values:]))
            _kv(memory, rows, row, layer, dim)[:, :, int(rows.slot[row])] = new
    return rotated[:, :heads].contiguous()


def project_rotate(  # noqa: PLR0917 - of a layer, in the order in which it reads them
    states: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    norm: torch.Tensor | None,
    rope: torch.Tensor,
    positions: torch.Tensor,
    memory: torch.Tensor,
    rows: TreeRows,
    layer: Layer,
    *,
    eps: float,
) -> torch.Tensor:
    """`rotate` of what a projection makes of the states, which are normed first.

    Args:
        states: [rows, width].
        weight: of queries, keys and values, [(heads + 2 * kv heads) * head dim, width].
        bias: of the same; None: none.
        norm: as of `rotate`, like all that follows.
        rope: [positions, 2, 1, head dim].
        positions: int64 [rows].
        memory: where KV is written.
        rows: where in it.
        layer: whose KV is written.
        eps: of all norms.

    Returns:
        Queries, [rows, heads, head dim].
    """
    projected = _projected(states, weight, bias, eps).view(len(states), -1, rope.shape[-1])
    return rotate(projected, norm, rope, positions, memory, rows, layer, eps=eps).to(states.dtype)


def project_gate(
    states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *, eps: float
) -> torch.Tensor:
    """`gate` of what a projection makes of the states, which are normed first.

    Args:
        states: [rows, width].
        weight: of the gates, then of what they gate, [2 * inner, width].
        bias: of the same; None: none.
        eps: of the norm.

    Returns:
        [rows, inner].
    """
    return gate(_projected(states, weight, bias, eps)).to(states.dtype)


def _projected(
    states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, eps: float
) -> torch.Tensor:
    """Float32, so that it is rounded only where a merged kernel rounds."""
    normed = F.rms_norm(states.float(), states.shape[-1:], None, eps)
    return F.linear(normed, weight.float(), None if bias is None else bias.float())


def gate(both: torch.Tensor, *, eps: float = 0.0, states: torch.Tensor | None = None) -> torch.Tensor:
    """SwiGLU of a gate and, beside it, what it gates: [rows, 2 * width] -> [rows, width].

    Args:
        both: gates, then what they gate.
        eps: as of `rotate`.
        states: as of `rotate`, for `both`.
    """
    if states is not None:
        both = _normed(both, states, eps)
    first, second = both.chunk(2, -1)
    return F.silu(first) * second


def _normed(projected: torch.Tensor, states: torch.Tensor, eps: float) -> torch.Tensor:
    """A projection of RMSNorm(states), from one of the states: the norm is a factor for each row."""
    size = torch.rsqrt(states.float().square().mean(-1) + eps)
    return (projected.float() * size.view(-1, *[1] * (projected.dim() - 1))).to(projected.dtype)
