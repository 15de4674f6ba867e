"""The rank of a target that speaks with the draft, and tells the others what to verify."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import torch

from sglang_mirror.config import MirrorConfig
from sglang_mirror.core.branches import Branch
from sglang_mirror.core.growth import WindowShape
from sglang_mirror.core.roots import phase_budgets
from sglang_mirror.core.signalling import Signalled
from sglang_mirror.core.verify import reached
from sglang_mirror.engine.early_exit import Publish
from sglang_mirror.engine.following_rank import Windows
from sglang_mirror.engine.host import get_serving
from sglang_mirror.engine.judging import fared, speculation_of
from sglang_mirror.engine.metrics import Counters
from sglang_mirror.engine.request import Request
from sglang_mirror.engine.signal import addresses, exit_candidates
from sglang_mirror.engine.supervisor import DraftSupervisor
from sglang_mirror.engine.trace import Trace
from sglang_mirror.protocol.liveness import Peer

# Lockstep is for traces: a draft that takes longer is broken.
LOCKSTEP_WAIT_MS = 5000.0
NOBODY = 0  # requests are numbered from 1


class LeadingRank:
    """The rank that speaks with the draft; of a target on one device, the only one.

    Args:
        group: SGLang's group of the target's ranks.
        config: the settings.
        shape: bounds of a window.
        server_args: SGLang's settings.
        place: the draft's device, and its threads on a CPU.
        vocab_size: the target's token ids are below it.
        resizable: whether a verification of fewer nodes is a shorter one.
        has_exit: whether there is an early exit to read.
        counters: where to count.
    """

    def __init__(
        self,
        group: Any,
        config: MirrorConfig,
        *,
        shape: WindowShape,
        server_args: Any,
        place: tuple[str, int],
        vocab_size: int,
        resizable: bool,
        has_exit: bool,
        counters: Counters,
    ) -> None:
        self._group, self._config, self._counters = group, config, counters
        self._trace = Trace(config.trace)
        device, threads = place
        self._supervisor = DraftSupervisor(
            config,
            shape=shape,
            target=server_args.model_path,
            device=device,
            threads=threads,
            vocab_size=vocab_size,
            counters=counters,
        )
        self._client = self._supervisor.client
        self._metrics = _metrics(counters) if server_args.enable_metrics else None
        self._prefilled: dict[str, Any] = {}
        self._speculation = speculation_of(config, resizable=resizable)
        self._client.waits = self._speculation.waits
        self._has_exit = self._client.signals = has_exit
        # Of the running step: the requests that it speculates for, of each request whether its window was
        # awaited, how long it waited, and whether requests had joined it.
        self._requests: list[Request] = []
        self._awaited: list[bool | None] = []
        self._waited_s, self._joined = 0.0, False

    def wait_until_ready(self) -> None:
        """Wait for the draft; without one in time the server serves plainly."""
        self._supervisor.wait_until_ready()

    def open(self, reqs: Sequence[Any]) -> None:
        # SGLang does not tell of requests that end at their prefill. One that it took back may be aborted
        # while it waits, untold as well; should it return instead, it is opened anew.
        self.close([rid for rid, req in self._prefilled.items() if req.finished() or req.is_retracted])
        for req in reqs:  # the draft prefills while the target does
            self._prefilled[req.rid] = req
            if req.sampling_params.max_new_tokens > 1:  # the first token is the prefill's own
                self._client.open(req.rid, _tokens_of(req))

    def windows(
        self,
        reqs: Sequence[Any],
        unread: Sequence[Sequence[int]],
        cycle_s: float | None,
        *,
        sampled: bool,
    ) -> tuple[Windows, bool]:
        """See `FollowingRank.windows`; waits for those that can be expected.

        Args:
            reqs: of the batch.
            unread: last tokens of each one's output that SGLang has not taken in.
            cycle_s: seconds from the last step's beginning to this one's; None if a prefill came between.
            sampled: whether any of them draws its tokens.
        """
        self._requests, self._waited_s, self._joined = [], 0.0, False
        self._awaited = [None] * len(reqs)
        ours: Windows = [None] * len(reqs)
        if self._speculation.begin(len(reqs), sampled=sampled, cycle_s=cycle_s):
            self._requests = self._requests_of(reqs, unread)
            self._awaited = [self._client.awaited(request) for request in self._requests]
            self._waited_s = self._client.collect(self._requests, self._config.miss_wait_ms)
            ours = [request.window for request in self._requests]
        found = ours, self._client.signals and any(ours)
        self._group.broadcast_object(found, src=0)
        return found

    def publisher(self, windows: Windows) -> Publish:
        """See `FollowingRank.publisher`; what it returns may be called from any thread."""
        to = addresses(self._requests, windows)

        def publish(tokens: torch.Tensor, logprobs: torch.Tensor) -> None:
            self._client.signal(exit_candidates(to, tokens, logprobs))

        return publish

    def commit(
        self,
        windows: Windows,
        committed: Sequence[list[int]],
        times: tuple[float, float],
        *,
        num_rows: int,
        exit_s: float | None,
    ) -> None:
        """See `FollowingRank.commit`: look each outcome up among its branches, tell the draft, count.

        A draft that was not asked for windows is not told either: it hears of all tokens when it next is.
        """
        live = [place for place, tokens in enumerate(committed) if tokens]
        windows, committed = [windows[place] for place in live], [committed[place] for place in live]
        self._requests = [self._requests[place] for place in live if self._requests]
        awaited = [self._awaited[place] for place in live]
        hits = self._look_up(windows, committed)
        self._speculation.end(
            fared(awaited, windows, committed, hits),
            rows=num_rows,
            seconds=times[1] - times[0],
            waited_s=self._waited_s,
            tokens=sum(map(len, committed)),
            joined=self._joined,
            signalled=None if exit_s is None else Signalled(_hits_by_exit(hits), exit_s),
        )
        self._client.least, self._client.rate = self._speculation.least, self._speculation.rate
        self._counters.rendezvous_ms += (time.monotonic() - times[1]) * 1000
        self._count(windows, committed, hits)
        if self._metrics is not None:
            self._metrics.tick(ready=self._client.peer is Peer.READY)
        if self._trace:
            self._write_trace(windows, committed, hits, times)

    def _look_up(self, windows: Windows, committed: Sequence[list[int]]) -> list[Branch | None]:
        if not self._requests:
            return [None] * len(committed)
        if self._config.lockstep:
            mode, budget = self._config.root_mode, self._config.root_budget
            first, total = phase_budgets(mode, budget, signals=self._has_exit)
            last_phase = 2 if total > first else int(first > 0)
            waited_for = [request for request in self._requests if request.window is not None]
            self._client.wait_for_branches(waited_for, last_phase, LOCKSTEP_WAIT_MS)
        outcomes = [reached(*each) for each in zip(windows, committed, strict=True)]
        self._client.signals = self._has_exit and self._speculation.signals()
        return self._client.commit(list(zip(self._requests, outcomes, committed, strict=True)))

    def close(self, rids: Sequence[str]) -> None:
        for rid in rids:
            self._prefilled.pop(rid, None)
        self._client.close(rids)
        if rids and self._metrics is not None:
            self._metrics.publish(ready=self._client.peer is Peer.READY)

    def report(self) -> dict[str, Any]:
        misses = self._speculation.least_misses
        return {
            **self._supervisor.report(),
            "speculating": self._speculation.report(),
            "least_chance": math.exp(self._client.least),
            "least_misses": misses if math.isfinite(misses) else None,
            "signals": self._client.signals,
        }

    def _requests_of(self, reqs: Sequence[Any], unread: Sequence[Sequence[int]]) -> list[Request]:
        """The batch's requests; the draft hears of those that it does not know as they are now."""
        known = [self._known(*each) for each in zip(reqs, unread, strict=True)]
        num_unknown = known.count(None)
        self._joined = num_unknown > 0
        waits = self._joined and self._speculation.waits(num_unknown)
        return [
            request or self._client.committed(req.rid, [*_tokens_of(req), *unread_], waits=waits)
            for request, req, unread_ in zip(known, reqs, unread, strict=True)
        ]

    def _known(self, req: Any, unread: Sequence[int]) -> Request | None:
        output_len = len(req.output_ids) + len(unread)
        # SGLang has found its end, or will, and verifies it once more: no draft hears of that.
        if req.finished() or output_len >= req.sampling_params.max_new_tokens:
            return Request(req.rid, NOBODY, [])
        return self._client.current(req.rid, len(_prompt_of(req)) + output_len)

    def _count(self, windows: Windows, committed: Sequence[list[int]], hits: Sequence[Branch | None]) -> None:
        self._counters.batches += 1
        for window, tokens, hit in zip(windows, committed, hits, strict=True):
            self._counters.count_step(num_committed=len(tokens), with_window=window is not None, hit=hit)

    def _write_trace(
        self,
        windows: Windows,
        committed: Sequence[list[int]],
        hits: Sequence[Branch | None],
        times: tuple[float, float],
    ) -> None:
        for request, window, tokens, hit in zip(self._requests, windows, committed, hits, strict=True):
            self._trace.write(
                rid=request.rid,
                committed_len=len(request.tokens) - len(tokens),
                window=window.tokens if window else None,
                parents=window.parents if window else None,
                committed=tokens,
                source=hit.source if hit else None,
                began_s=times[0],
                ended_s=times[1],
            )


def _metrics(counters: Counters) -> Any:
    # SGLang names the folder that its processes share after its start: not before may this be imported.
    from sglang_mirror.engine.prometheus import Metrics  # noqa: PLC0415

    return Metrics(counters, get_serving().served_model_name)


def _tokens_of(req: Any) -> list[int]:
    return [*_prompt_of(req), *req.output_ids]


def _prompt_of(req: Any) -> Any:
    """Where an image is, what SGLang computes has numbers that are no tokens. Else the prompt is what it
    computes: of one that is too long its beginning or, if it is turned down, next to nothing.
    """
    return req.origin_input_ids if req.multimodal_inputs is None else req.origin_input_ids_unpadded


def _hits_by_exit(hits: Sequence[Branch | None]) -> int:
    return sum(hit is not None and hit.source == "exit" for hit in hits)
