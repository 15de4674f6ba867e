"""How many nodes a verification has: where nothing is captured, as many as the longest of its windows.

A captured graph has one number of nodes a request, so on a GPU windows are padded to it. A batch without
windows would be padded too, and plain decoding would cost what a verification does, which is the more the
larger the batch is. So the target is given a second set of graphs there, of the root alone, in the way in
which SGLang's adaptive speculation prepares for no draft tokens at all.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch

from sglang_mirror.core.growth import WindowShape
from sglang_mirror.core.window import Window
from sglang_mirror.engine.context_end import make_room
from sglang_mirror.engine.host import capture_decode_graph, get_context, get_spec
from sglang_mirror.errors import MirrorError

logger = logging.getLogger(__name__)

# What graphs of the root alone take with their attention's workspace, about.
ROOM_GIB, GIB = 1.0, 1 << 30
# What may happen on one rank alone: the others would wait for its part of what they compute together.
OUT_OF_MEMORY = ("out of memory", "ALLOC_FAILED", "unhandled cuda error")
ROOT_ALONE = WindowShape.chain(0)
_Pair = tuple[Any, Any]  # SGLang's attention backend, and the graphs that were captured with it


class Widths(Protocol):
    """Which shapes of windows the target can verify.

    Attributes:
        plain: what a step without windows is verified with.
    """

    plain: WindowShape

    def build(self, group: Any) -> None:
        """Prepare for steps without windows, behind the target's own graphs; all ranks do it, or none.

        Args:
            group: SGLang's group of the target's ranks.

        Raises:
            MirrorError: one of several ranks has no memory for it, while the others wait for its part.
        """

    def of(self, windows: Sequence[Window | None]) -> WindowShape:
        """The smallest shape that holds these windows."""

    def ready_for(self, shape: WindowShape) -> AbstractContextManager[None]:
        """Within it the target can verify this shape, which `of` has given."""


class AnyWidth:
    """Of a target of which nothing is captured; see `Widths`.

    Args:
        shape: bounds of a window.
    """

    plain = ROOT_ALONE

    def __init__(self, shape: WindowShape) -> None:
        self._shape = shape

    def build(self, group: Any) -> None:
        """Nothing is to be prepared."""

    def of(self, windows: Sequence[Window | None]) -> WindowShape:
        size = max((len(window) - 1 for window in windows if window), default=0)
        return self._shape.of_size(size) if size else self.plain

    def ready_for(self, _shape: WindowShape) -> AbstractContextManager[None]:
        return contextlib.nullcontext()


class CapturedWidths:
    """Of a target whose forwards are captured, for whole windows and, if there was memory, the root alone.

    Args:
        model_runner: SGLang's, of the target.
        shape: of every window.
    """

    def __init__(self, model_runner: Any, shape: WindowShape) -> None:
        self._runner, self._shape = model_runner, shape
        self._root_alone: _Pair | None = None
        self.plain = shape

    def build(self, group: Any) -> None:
        found, began = None, time.monotonic()
        problem = _too_little_memory(group) if group.world_size > 1 else None
        if problem is None:
            try:
                found = _captured(self._runner, self._shape.num_nodes)
            except Exception as error:  # what SGLang raises when a capture fails
                problem = str(error).strip() or repr(error)
                if group.world_size > 1 and any(words in problem for words in OUT_OF_MEMORY):
                    raise MirrorError(_alone(group.rank_in_group, problem)) from error
        problems = [each for each in group.all_gather_object(problem) if each is not None]
        if problems:
            logger.warning(
                "mirror: no graphs for plain steps (%s): they cost as much as those with windows, and large "
                "batches feel it; leave more memory with a lower --mem-fraction-static",
                problems[0].splitlines()[0],
            )
            return
        self._root_alone, self.plain = found, ROOT_ALONE
        logger.info("mirror: plain steps were prepared for in %.1f s", time.monotonic() - began)

    def of(self, windows: Sequence[Window | None]) -> WindowShape:
        return self._shape if any(windows) else self.plain

    @contextlib.contextmanager
    def ready_for(self, shape: WindowShape) -> Iterator[None]:
        if shape.size or self._root_alone is None:
            yield
            return
        before = _pair(self._runner)
        _put(self._runner, self._root_alone)
        try:
            yield
        finally:
            _put(self._runner, before)


def widths_of(model_runner: Any, shape: WindowShape, *, captured: bool) -> Widths:
    """Those of a target, whose forwards may be captured."""
    return CapturedWidths(model_runner, shape) if captured else AnyWidth(shape)


def _captured(model_runner: Any, num_nodes: int) -> _Pair:
    """An attention backend for the root alone and, where SGLang captures decode steps, graphs with it.

    It may be asked behind whole windows of `num_nodes`.
    """
    before, workspace = _pair(model_runner), model_runner.init_new_workspace
    with _speculating(num_steps=0, topk=1, num_draft_tokens=1):
        try:
            # With memory of its own: what was captured with the other reads that one's.
            model_runner.attn_backend = model_runner._get_attention_backend(init_new_workspace=True)
            make_room(model_runner.attn_backend, num_nodes)
            return model_runner.attn_backend, capture_decode_graph(model_runner=model_runner).runner
        finally:
            model_runner.init_new_workspace = workspace
            _put(model_runner, before)


def _pair(model_runner: Any) -> _Pair:
    return model_runner.attn_backend, model_runner.decode_cuda_graph_runner


def _put(model_runner: Any, pair: _Pair) -> None:
    model_runner.attn_backend, model_runner.decode_cuda_graph_runner = pair


@contextlib.contextmanager
def _speculating(*, num_steps: int, topk: int, num_draft_tokens: int) -> Iterator[None]:
    """What SGLang builds meanwhile is built for these settings; nothing is reserved by them, nor served."""
    spec, context = get_spec(), get_context()
    wanted = {
        "speculative_num_steps": num_steps,
        "speculative_eagle_topk": topk,
        "speculative_num_draft_tokens": num_draft_tokens,
    }
    before = {name: getattr(spec, name) for name in wanted}
    context.override("mirror: plain steps", **wanted)
    try:
        yield
    finally:
        context.override("mirror: windows", **before)


def _too_little_memory(group: Any) -> str | None:
    """Why several ranks had better not begin, the same on each; None if they may."""
    free = torch.cuda.mem_get_info()[0] / GIB if torch.cuda.is_available() else math.inf
    least = min(group.all_gather_object(free))
    return None if least >= ROOM_GIB else f"{least:.1f} GiB are free on one GPU, {ROOM_GIB:g} are needed"


def _alone(rank: int, problem: str) -> str:
    return (
        f"mirror: no memory for graphs of plain steps on rank {rank} ({problem.splitlines()[0]}); give a "
        "lower --mem-fraction-static, or --mirror-speculate always, which needs none"
    )
