"""The worker that SGLang's scheduler drives: prefill, then verify, commit, and tell the draft.

A decode step reads like method's own: take the windows, verify them while the draft rolls out what may come
next, look the outcome up among its branches, say what was committed.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import torch

from sglang_mirror.config import MirrorConfig, resolve
from sglang_mirror.core.branches import Branch
from sglang_mirror.core.growth import WindowShape
from sglang_mirror.core.roots import phase_budgets
from sglang_mirror.core.verify import Outcome
from sglang_mirror.core.window import Window
from sglang_mirror.engine.host import BaseSpecWorker, get_device, get_schedule, get_serving, get_spec
from sglang_mirror.engine.metrics import Counters
from sglang_mirror.engine.request import Request
from sglang_mirror.engine.signal import addresses, exit_candidates
from sglang_mirror.engine.step import Laid, Verifier, committed_tokens, lay_out
from sglang_mirror.engine.supervisor import DraftSupervisor
from sglang_mirror.engine.tap import early_exit
from sglang_mirror.engine.trace import Trace
from sglang_mirror.protocol.liveness import Peer

# Lockstep is for traces: a draft that takes longer is broken.
LOCKSTEP_WAIT_MS = 5000.0


class MirrorWorker(BaseSpecWorker):  # type: ignore[misc]  # SGLang ships no types
    """SGLang's speculative worker for `--speculative-algorithm mirror`.

    Args:
        server_args: SGLang's settings, resolved.
        target_worker: SGLang's worker of the target, its model loaded.
    """

    def __init__(self, *, server_args: Any, target_worker: Any, **_: Any) -> None:
        super().__init__()
        self._target_worker = target_worker
        self.model_runner = target_worker.model_runner
        self.server_args = server_args
        self.device = get_device().device
        spec = get_spec()
        self.speculative_num_steps = spec.speculative_num_steps
        self.speculative_num_draft_tokens = spec.speculative_num_draft_tokens
        self._shape = WindowShape(
            self.speculative_num_steps, spec.speculative_eagle_topk, self.speculative_num_draft_tokens - 1
        )
        self.config: MirrorConfig = resolve()
        self.counters = Counters()
        self._verifier = Verifier(self, self.device)
        self._trace = Trace(self.config.trace)
        self._exit = early_exit(
            self.model_runner.model,
            self.config,
            topk=self._shape.topk,
            most_nodes=get_schedule().max_running_requests * self._shape.num_nodes,
        )
        self.supervisor = DraftSupervisor(
            self.config,
            shape=self._shape,
            target=server_args.model_path,
            vocab_size=self.model_runner.model_config.vocab_size,
            counters=self.counters,
        )
        self._client = self.supervisor.client
        self._metrics = _metrics(server_args, self.counters)
        self._prefilled: dict[str, Any] = {}
        self._decoding_since: float | None = (
            None  # when the last decode step began, unless a prefill followed
        )

    @property
    def draft_worker(self) -> None:
        """No draft model lives in this process."""
        return None

    def init_cuda_graphs(self) -> None:
        """SGLang's last word before it serves: the draft has loaded meanwhile, or is waited for."""
        super().init_cuda_graphs()
        self.supervisor.wait_until_ready()

    # ---- what SGLang's scheduler calls

    def forward_batch_generation(
        self, batch: Any, on_publish: Any = None, grammar_barrier: Any = None, pp_proxy_tensors: Any = None
    ) -> Any:
        """One iteration: a prefill batch through the target alone, or one verification of every request."""
        if batch.forward_mode.is_extend() or batch.is_extend_in_batch:
            return self._prefill(batch, on_publish, pp_proxy_tensors)
        if batch.forward_mode.is_idle():
            self._verifier.prepare_idle(batch, self._shape)
            return self._verifier.run(batch, self._shape, grammar_barrier)
        return self._decode(batch, on_publish, grammar_barrier)

    def _prefill(self, batch: Any, on_publish: Any, pp_proxy_tensors: Any) -> Any:
        self._decoding_since = None
        # SGLang does not tell of requests that end at their prefill, or while they wait for another.
        self._close([rid for rid, req in self._prefilled.items() if req.finished()])
        for req in batch.reqs:  # the draft prefills while the target does
            self._client.open(req.rid, _tokens_of(req))
            self._prefilled[req.rid] = req
        result = self._target_worker.forward_batch_generation(batch, pp_proxy_tensors=pp_proxy_tensors)
        result.new_seq_lens = batch.seq_lens
        if on_publish is not None:
            on_publish(result.new_seq_lens)
        result.next_draft_input = self._verifier.draft_input(result.next_token_ids)
        result.speculative_num_draft_tokens = self.speculative_num_draft_tokens
        return result

    def _decode(self, batch: Any, on_publish: Any, grammar_barrier: Any) -> Any:
        self._count_cycle()
        requests = [self._request_of(req) for req in batch.reqs]
        if self.config.miss == "wait":
            self._client.collect(requests, self.config.miss_wait_ms)
        windows = [request.window for request in requests]
        shape = self._shape_of(windows)
        laid = lay_out(windows, shape)
        self._verifier.prepare(batch, laid, shape)
        began, aside_ms = time.monotonic(), self.counters.exit_ms + self.counters.rendezvous_ms
        result, committed = self._verify(batch, shape, laid, requests, grammar_barrier)
        ended = time.monotonic()
        aside_ms -= self.counters.exit_ms + self.counters.rendezvous_ms
        self.counters.verify_ms += (ended - began) * 1000 + aside_ms
        if on_publish is not None:
            on_publish(result.new_seq_lens)

        hits = self._commit(requests, windows, committed)
        self.counters.rendezvous_ms += (time.monotonic() - ended) * 1000
        self._count(windows, committed, hits)
        if self._trace:
            self._write_trace(requests, windows, committed, hits, (began, ended))
        return result

    def _shape_of(self, windows: Sequence[Window | None]) -> WindowShape:
        """As many nodes as the longest window has; elsewhere than on a CPU always one shape, the graphs'."""
        if self.device != "cpu":
            return self._shape
        size = max((len(window) - 1 for window in windows if window), default=0)
        if not size:
            return WindowShape.chain(0)
        if self._shape.topk == 1:
            return WindowShape.chain(size)
        return dataclasses.replace(self._shape, size=size)

    def _count_cycle(self) -> None:
        now = time.monotonic()
        if self._decoding_since is not None:
            self.counters.cycles += 1
            self.counters.cycle_ms += (now - self._decoding_since) * 1000
        self._decoding_since = now

    def _count(
        self,
        windows: Sequence[Window | None],
        committed: Sequence[list[int]],
        hits: Sequence[Branch | None],
    ) -> None:
        self.counters.batches += 1
        if self._metrics is not None:
            self._metrics.tick(ready=self._client.peer is Peer.READY)
        for window, tokens, hit in zip(windows, committed, hits, strict=True):
            self.counters.count_step(num_committed=len(tokens), with_window=window is not None, hit=hit)

    def _write_trace(
        self,
        requests: Sequence[Request],
        windows: Sequence[Window | None],
        committed: Sequence[list[int]],
        hits: Sequence[Branch | None],
        times: tuple[float, float],
    ) -> None:
        for request, window, tokens, hit in zip(requests, windows, committed, hits, strict=True):
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

    def _request_of(self, req: Any) -> Request:
        committed_len = len(req.origin_input_ids) + len(req.output_ids)
        return self._client.current(req.rid, committed_len) or self._client.committed(
            req.rid, _tokens_of(req)
        )

    def _verify(
        self,
        batch: Any,
        shape: WindowShape,
        laid: Laid,
        requests: Sequence[Request],
        grammar_barrier: Any,
    ) -> tuple[Any, list[list[int]]]:
        """SGLang's result, and the tokens that each request commits; meanwhile the exit's signal goes out."""
        to = addresses(requests)
        if self._exit is None or not any(count for _, count in to):
            result = self._verifier.run(batch, shape, grammar_barrier)
            return result, committed_tokens(result, shape)

        def publish(tokens: torch.Tensor, logprobs: torch.Tensor) -> None:
            self._client.signal(exit_candidates(to, tokens, logprobs))

        self._exit.arm(laid.children(shape.topk), publish)
        try:
            result = self._verifier.run(batch, shape, grammar_barrier)
            return result, committed_tokens(result, shape)
        finally:
            patience_s = LOCKSTEP_WAIT_MS / 1000 if self.config.lockstep else 0.0
            read_ms, published_ms = self._exit.disarm(patience_s)
            self.counters.exit_ms += read_ms
            self.counters.rendezvous_ms += published_ms

    def _commit(
        self,
        requests: Sequence[Request],
        windows: Sequence[Window | None],
        committed: Sequence[list[int]],
    ) -> list[Branch | None]:
        if self.config.lockstep:
            first, total = phase_budgets(self.config.roots, self.config.root_budget)
            last_phase = 2 if total > first else int(first > 0)
            waited_for = [request for request in requests if request.window is not None]
            self._client.wait_for_branches(waited_for, last_phase, LOCKSTEP_WAIT_MS)
        outcomes = [
            Outcome(_reached(window, tokens), tokens[-1])
            for window, tokens in zip(windows, committed, strict=True)
        ]
        return self._client.commit(list(zip(requests, outcomes, committed, strict=True)))

    # ---- what SGLang tells us

    def note_request_finished(self, *, rid: str, natural_stop: bool) -> None:  # noqa: ARG002 - SGLang's form
        self._close([rid])
        if self._metrics is not None:
            self._metrics.publish(ready=self._client.peer is Peer.READY)

    def _close(self, rids: list[str]) -> None:
        for rid in rids:
            self._prefilled.pop(rid, None)
        self._client.close(rids)

    def clear_cache_pool(self) -> None:
        """SGLang drops its caches; nothing that the draft holds outlives a request anyway."""

    def report(self) -> dict[str, Any]:
        """The `mirror` object of `/server_info`."""
        return {**self.supervisor.report(), **self.counters.report()}

    # SGLang up to 0.5.20 updates weights through the speculative worker.

    def update_weights_from_disk(self, *args: Any, **kwargs: Any) -> Any:
        return self._target_worker.update_weights_from_disk(*args, **kwargs)

    def update_weights_from_tensor(self, *args: Any, **kwargs: Any) -> Any:
        return self._target_worker.update_weights_from_tensor(*args, **kwargs)

    def update_weights_from_ipc(self, *args: Any, **kwargs: Any) -> Any:
        return self._target_worker.update_weights_from_ipc(*args, **kwargs)


def _metrics(server_args: Any, counters: Counters) -> Any:
    if not server_args.enable_metrics:
        return None
    # SGLang names the folder that its processes share after its start: not before may this be imported.
    from sglang_mirror.engine.prometheus import Metrics  # noqa: PLC0415

    return Metrics(counters, get_serving().served_model_name)


def _tokens_of(req: Any) -> list[int]:
    return [*req.origin_input_ids, *req.output_ids]


def _reached(window: Window | None, committed: Sequence[int]) -> int:
    """The node at which verification ended; -1, for which there is no branch, if padding was accepted."""
    if window is None:
        return len(committed) - 1
    node = window.reached(committed[:-1])
    return -1 if node is None else node
