"""The worker that SGLang's scheduler drives: prefill, then verify, commit, and tell the draft.

A decode step reads like method's own: take the windows, verify them while the draft rolls out what may come
next, look the outcome up among its branches, say what was committed.
"""

from __future__ import annotations

import time
from typing import Any

from sglang_mirror.config import MirrorConfig, resolve
from sglang_mirror.core.growth import WindowShape
from sglang_mirror.engine.host import BaseSpecWorker, get_device, get_schedule, get_spec, get_tp_group
from sglang_mirror.engine.metrics import Counters
from sglang_mirror.engine.ranks import LOCKSTEP_WAIT_MS, FollowingRank, LeadingRank, Windows
from sglang_mirror.engine.step import Laid, Verifier, committed_tokens, lay_out
from sglang_mirror.engine.tap import early_exit


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
        self._resizable = self.device == "cpu"  # elsewhere captured graphs have one shape
        spec = get_spec()
        self.speculative_num_steps = spec.speculative_num_steps
        self.speculative_num_draft_tokens = spec.speculative_num_draft_tokens
        self._shape = WindowShape(
            self.speculative_num_steps, spec.speculative_eagle_topk, self.speculative_num_draft_tokens - 1
        )
        self.config: MirrorConfig = resolve()
        self.counters = Counters()
        self._verifier = Verifier(self, self.device)
        group = get_tp_group()
        self._exit = early_exit(
            self.model_runner.model,
            self.config,
            topk=self._shape.topk,
            most_nodes=get_schedule().max_running_requests * self._shape.num_nodes,
            group=group,
        )
        self._rank: LeadingRank | FollowingRank
        if group.rank_in_group:
            self._rank = FollowingRank(group)
        else:
            self._rank = LeadingRank(
                group,
                self.config,
                shape=self._shape,
                server_args=server_args,
                vocab_size=self.model_runner.model_config.vocab_size,
                resizable=self._resizable,
                counters=self.counters,
            )
        # When the last decode step began, unless a prefill followed.
        self._decoding_since: float | None = None

    @property
    def draft_worker(self) -> None:
        """No draft model lives in this process."""
        return None

    def init_cuda_graphs(self) -> None:
        """SGLang's last word before it serves: the draft has loaded meanwhile, or is waited for."""
        super().init_cuda_graphs()
        self._rank.wait_until_ready()

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
        self._rank.open(batch.reqs)
        result = self._target_worker.forward_batch_generation(batch, pp_proxy_tensors=pp_proxy_tensors)
        result.new_seq_lens = batch.seq_lens
        if on_publish is not None:
            on_publish(result.new_seq_lens)
        result.next_draft_input = self._verifier.draft_input(result.next_token_ids)
        result.speculative_num_draft_tokens = self.speculative_num_draft_tokens
        return result

    def _decode(self, batch: Any, on_publish: Any, grammar_barrier: Any) -> Any:
        sampled = not batch.sampling_info.is_all_greedy
        windows = self._rank.windows(batch.reqs, self._cycle_s(), sampled=sampled)
        shape = self._shape_of(windows)
        laid = lay_out(windows, shape)
        self._verifier.prepare(batch, laid, shape)
        began, aside_ms = time.monotonic(), self.counters.exit_ms + self.counters.rendezvous_ms
        result, committed = self._verify(batch, windows, laid, shape, grammar_barrier)
        ended = time.monotonic()
        aside_ms -= self.counters.exit_ms + self.counters.rendezvous_ms
        self.counters.verify_ms += (ended - began) * 1000 + aside_ms
        if on_publish is not None:
            on_publish(result.new_seq_lens)
        self._rank.commit(windows, committed, (began, ended), num_rows=len(windows) * shape.num_nodes)
        return result

    def _shape_of(self, windows: Windows) -> WindowShape:
        """As many nodes as the longest window has, where a verification can have fewer than all."""
        if not self._resizable:
            return self._shape
        size = max((len(window) - 1 for window in windows if window), default=0)
        return self._shape.of_size(size) if size else WindowShape.chain(0)

    def _cycle_s(self) -> float | None:
        """Seconds since the last decode step began; None after a prefill."""
        now, since = time.monotonic(), self._decoding_since
        self._decoding_since = now
        if since is None:
            return None
        self.counters.cycles += 1
        self.counters.cycle_ms += (now - since) * 1000
        return now - since

    def _verify(
        self, batch: Any, windows: Windows, laid: Laid, shape: WindowShape, grammar_barrier: Any
    ) -> tuple[Any, list[list[int]]]:
        """SGLang's result, and the tokens that each request commits; meanwhile the exit's signal goes out."""
        if self._exit is None or not any(windows):
            result = self._verifier.run(batch, shape, grammar_barrier)
            return result, committed_tokens(result, shape)
        self._exit.arm(laid.children(shape.topk), self._rank.publisher())
        try:
            result = self._verifier.run(batch, shape, grammar_barrier)
            return result, committed_tokens(result, shape)
        finally:
            patience_s = LOCKSTEP_WAIT_MS / 1000 if self.config.lockstep else 0.0
            read_ms, published_ms = self._exit.disarm(patience_s)
            self.counters.exit_ms += read_ms
            self.counters.rendezvous_ms += published_ms

    # ---- what SGLang tells us

    def note_request_finished(self, *, rid: str, natural_stop: bool) -> None:  # noqa: ARG002 - SGLang's form
        self._rank.close([rid])

    def clear_cache_pool(self) -> None:
        """SGLang drops its caches; nothing that the draft holds outlives a request anyway."""

    def report(self) -> dict[str, Any]:
        """The `mirror` object of `/server_info`."""
        return {**self._rank.report(), **self.counters.report()}

    # SGLang up to 0.5.20 updates weights through the speculative worker.

    def update_weights_from_disk(self, *args: Any, **kwargs: Any) -> Any:
        return self._target_worker.update_weights_from_disk(*args, **kwargs)

    def update_weights_from_tensor(self, *args: Any, **kwargs: Any) -> Any:
        return self._target_worker.update_weights_from_tensor(*args, **kwargs)

    def update_weights_from_ipc(self, *args: Any, **kwargs: Any) -> Any:
        return self._target_worker.update_weights_from_ipc(*args, **kwargs)
