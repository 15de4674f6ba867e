"""The answer to a target's Hello: what it asks for, and every reason why it cannot be had."""

from __future__ import annotations

from sglang_mirror.draft.backends.base import Backend
from sglang_mirror.protocol.messages import VERSION, Hello


def reserve(gamma: int) -> int:
    """Tokens that a text needs behind it: a window, the outcome's token, and the window after it."""
    return 2 * gamma + 1


def objections(hello: Hello, backend: Backend, vocabulary: str) -> list[str]:
    """Every reason why this draft cannot serve that target, with both sides' values; empty if it can."""
    reasons = []
    if hello.version != VERSION:
        reasons.append(f"protocol version: the target speaks {hello.version}, the draft {VERSION}")
    if hello.vocabulary != vocabulary:
        reasons.append(
            f"vocabulary: the target's is {hello.vocabulary}, that of the draft {backend.name} is "
            f"{vocabulary}; choose a draft with the target's tokenizer"
        )
    if not 1 <= hello.topk <= hello.kappa + 1:
        most = hello.kappa + 1
        reasons.append(
            f"topk: the target asks for {hello.topk} children a node, the draft accepts 1 to {most}"
        )
    if hello.nodes <= hello.gamma or (hello.topk == 1 and hello.nodes != hello.gamma + 1):
        reasons.append(
            f"nodes: the target asks for {hello.nodes} of {hello.topk} children and depth {hello.gamma}; "
            f"the draft accepts {hello.gamma + 1}, and more where nodes have more children than one"
        )
    if hello.gamma < 1 or reserve(hello.gamma) >= backend.max_len:
        most = (backend.max_len - 2) // 2
        reasons.append(f"gamma: the target asks for {hello.gamma}, the draft accepts 1 to {most}")
    if not 0 <= hello.kappa < backend.vocab_size:
        most = backend.vocab_size - 1
        reasons.append(f"kappa: the target asks for {hello.kappa}, the draft accepts 0 to {most}")
    if hello.root_budget < 0:
        reasons.append(f"root budget: the target asks for {hello.root_budget}, the draft accepts 0 or more")
    if hello.beat_ms < 1:
        reasons.append(f"beat: the target asks for {hello.beat_ms} ms, the draft accepts 1 or more")
    return reasons
