"""A window's tree in torch: building its links and mask, and walking it with the target's tokens.

Both functions give what SGLang's Triton kernels give, cell for cell. B requests, n nodes of a window, the
root being node 0. Links are as SGLang keeps them: `retrieve_index` numbers the nodes through the batch,
`retrieve_next_token` names a node's first child, `retrieve_next_sibling` the next child of the same parent,
-1 none.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch

FULL_MASK, QLEN_ONLY = 0, 1

Tensors3 = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class Shape(NamedTuple):
    """How the nodes of each window hang together; one row where all are alike."""

    visible: torch.Tensor  # bool [B, n, n]: which nodes each node sees, itself and its ancestors
    first_child: torch.Tensor  # int64 [B, n]
    next_sibling: torch.Tensor  # int64 [B, n]


def build_tree(  # noqa: PLR0917  (the host's signature)
    parent_list: torch.Tensor,
    top_scores_index: torch.Tensor,
    seq_lens: torch.Tensor,
    tree_mask: torch.Tensor,
    positions: torch.Tensor,
    retrieve_index: torch.Tensor,
    retrieve_next_token: torch.Tensor,
    retrieve_next_sibling: torch.Tensor,
    topk: int,
    spec_steps: int,
    num_verify_tokens: int,
    tree_mask_mode: int,
) -> None:
    """Fill mask, positions and links of every request's tree (``build_tree_kernel_efficient_func``).

    `parent_list` and `top_scores_index` [B, n-1] are what ``organize_draft_results`` returns; `seq_lens` [B]
    counts the tokens before the root. Written: `positions` int64 [B * n], the three links int64 [B, n]
    (handed in as -1), and `tree_mask`, whose prefix columns the caller has set to True: bool, [n, len + n] a
    request in FULL_MASK mode, [n, n] in QLEN_ONLY mode, packed.
    """
    if int(tree_mask_mode) not in (FULL_MASK, QLEN_ONLY):
        raise NotImplementedError(
            f"tree mask mode {tree_mask_mode!r}: only FULL_MASK and QLEN_ONLY are supported"
        )
    n, batch = num_verify_tokens, seq_lens.numel()
    shape = _chain(n) if topk == 1 else _tree(parent_list, top_scores_index, topk, spec_steps)
    visible = shape.visible.expand(batch, n, n)
    torch.add(seq_lens.to(torch.int64).unsqueeze(1), visible.sum(-1) - 1, out=positions.view(batch, n))
    retrieve_index.copy_(torch.arange(batch * n, device=seq_lens.device).view(batch, n))
    retrieve_next_token.copy_(shape.first_child)
    retrieve_next_sibling.copy_(shape.next_sibling)
    if int(tree_mask_mode) == QLEN_ONLY:
        tree_mask[: visible.numel()] = visible.reshape(-1)
        return
    offset = 0
    for request, seq_len in enumerate(seq_lens.tolist()):
        cells = tree_mask[offset : offset + n * (seq_len + n)].view(n, seq_len + n)
        cells[:, seq_len:] = visible[request]
        offset += cells.numel()


def verify_tree_greedy(  # noqa: PLR0917  (the host's signature)
    predicts: torch.Tensor,
    accept_index: torch.Tensor,
    accept_token_num: torch.Tensor,
    candidates: torch.Tensor,
    retrieve_index: torch.Tensor,
    retrieve_next_token: torch.Tensor,
    retrieve_next_sibling: torch.Tensor,
    target_predict: torch.Tensor,
    topk: int = -1,  # noqa: ARG001
) -> Tensors3:
    """Follow the target's argmax from the root as long as a child carries it (``verify_tree_greedy_func``).

    `target_predict` [B, n] is the target's token at each node; the rest, and what is returned, as in
    `verify`.
    """
    wanted = target_predict.flatten().tolist()
    outputs = predicts, accept_index, accept_token_num
    links = retrieve_index, retrieve_next_token, retrieve_next_sibling
    verify(outputs, candidates, links, lambda nodes: [wanted[node] for node in nodes])
    return outputs


def verify(
    outputs: Tensors3, candidates: torch.Tensor, links: Tensors3, draw: Callable[[list[int]], list[int]]
) -> None:
    """Follow the target's tokens from every root as long as a child carries them; write what was committed.

    `draw` gives the target's token at each of the nodes it is asked for, numbered through the batch; it is
    called once a depth, with the nodes that the walks have reached. `candidates` [B, n] are the nodes' own
    tokens, `links` their retrieve_index, next_token and next_sibling. `outputs` are written: predicts int32
    [B * n] at the nodes of the paths, accept_index int32 [B, depth + 1] the paths themselves, numbered
    through the batch and padded with -1, accept_token_num int32 [B] the accepted draft tokens.
    """
    predicts, accept_index, accept_token_num = outputs
    index, first_child, sibling = (link.tolist() for link in links)
    drafted = candidates.tolist()
    width = accept_index.shape[1]
    paths = [[0] for _ in drafted]  # by request: the nodes walked
    committed: dict[int, int] = {}  # node, numbered through the batch: the target's token there
    walking = list(range(len(drafted)))
    while walking:
        reached = [index[b][paths[b][-1]] for b in walking]
        tokens = draw(reached)
        committed.update(zip(reached, tokens, strict=True))
        for b, token in zip(walking, tokens, strict=True):
            child = first_child[b][paths[b][-1]] if len(paths[b]) < width else -1
            while child != -1 and drafted[b][child] != token:
                child = sibling[b][child]
            paths[b].append(child)
        walking = [b for b in walking if paths[b][-1] != -1]
    paths = [[node for node in path if node != -1] for path in paths]
    predicts[torch.tensor(list(committed))] = torch.tensor(list(committed.values()), dtype=predicts.dtype)
    padded = [[index[b][node] for node in path] + [-1] * (width - len(path)) for b, path in enumerate(paths)]
    accept_index.copy_(torch.tensor(padded))
    accept_token_num.copy_(torch.tensor([len(path) - 1 for path in paths]))


@lru_cache(maxsize=32)
def _chain(n: int) -> Shape:
    """The shape of a window whose nodes have one child each."""
    visible = torch.ones(1, n, n, dtype=torch.bool).tril_()
    first_child = torch.arange(1, n + 1).unsqueeze(0)
    first_child[0, -1] = -1
    return Shape(visible, first_child, torch.full((1, n), -1))


def _tree(parent_list: torch.Tensor, top_scores_index: torch.Tensor, topk: int, depth: int) -> Shape:
    """The shape of windows from what the draft selected."""
    parent, linked = _parents(parent_list, top_scores_index, topk)
    return Shape(_ancestors(parent, depth), *_links(parent, linked))


def _parents(
    parent_list: torch.Tensor, top_scores_index: torch.Tensor, topk: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each node's parent, int64 [B, n] (0 for the root), and whether that parent was selected, bool [B, n].

    A drafted token's number, divided by `topk`, names the entry of `parent_list` that holds its parent's
    number; entry 0 is the root. A token may have been selected without its parent when their scores tie:
    SGLang's kernels leave it unlinked and let it see the root only.
    """
    group = top_scores_index // topk  # [B, n-1]
    parent = torch.zeros(group.shape[0], group.shape[1] + 1, dtype=torch.int64, device=group.device)
    linked = torch.ones_like(parent, dtype=torch.bool)
    linked[:, 0] = False
    if parent_list.numel() == 0:
        return parent, linked
    parent_number = parent_list.gather(1, group.clamp(max=parent_list.shape[1] - 1))
    match = parent_number.unsqueeze(2) == top_scores_index.unsqueeze(1)  # [B, n-1, n-1]
    deep = group > 0
    found = match.any(-1)
    parent[:, 1:] = torch.where(deep & found, match.int().argmax(-1) + 1, 0)
    linked[:, 1:] = found | ~deep
    return parent, linked


def _ancestors(parent: torch.Tensor, depth: int) -> torch.Tensor:
    """Which nodes each node sees, itself and its ancestors, by doubling the reach: bool [B, n, n]."""
    n = parent.shape[1]
    reach = torch.eye(n, device=parent.device).repeat(parent.shape[0], 1, 1)
    reach.scatter_(2, parent.unsqueeze(2), 1.0)
    steps = 1
    while steps < depth:
        reach = reach @ reach
        steps *= 2
    return reach > 0


def _links(parent: torch.Tensor, linked: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """First child and next sibling of each node, int64 [B, n]; children in the order of their numbers."""
    n = parent.shape[1]
    node = torch.arange(n, device=parent.device)
    parent = torch.where(linked, parent, -1)  # the root and the unlinked are nobody's children
    is_child = parent.unsqueeze(1) == node.view(1, n, 1)  # [B, parent, child]
    is_sibling = linked.unsqueeze(2) & (parent.unsqueeze(1) == parent.unsqueeze(2))
    is_later = is_sibling & (node > node.unsqueeze(1))
    first_of_each = [torch.where(found, node, n).amin(-1) for found in (is_child, is_later)]
    first_child, next_sibling = (first.masked_fill_(first == n, -1) for first in first_of_each)
    return first_child, next_sibling
