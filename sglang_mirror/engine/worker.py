"""The worker that SGLang's scheduler drives: prefill, then verify, commit, and tell the draft.

A decode step reads like method's own: take the windows, verify them while the draft rolls out what may come
next, look the outcome up among its branches, say what was committed. Under SGLang's overlap schedule the
second half of a step is done as the next begins: SGLang takes in the last but one meanwhile.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import torch

from sglang_mirror.config import MirrorConfig, resolve
from sglang_mirror.core.growth import WindowShape
from sglang_mirror.engine.context_end import make_room
from sglang_mirror.engine.early_exit import EarlyExit
from sglang_mirror.engine.following_rank import FollowingRank, Windows
from sglang_mirror.engine.host import (
    BaseSpecWorker,
    get_device,
    get_schedule,
    get_spec,
    get_tp_group,
)
from sglang_mirror.engine.launched import Launched
from sglang_mirror.engine.leading_rank import LOCKSTEP_WAIT_MS, LeadingRank
from sglang_mirror.engine.metrics import Counters
from sglang_mirror.engine.placing import draft_place, replica_of
from sglang_mirror.engine.settings import exit_barrier
from sglang_mirror.engine.step import Verifier, lay_out
from sglang_mirror.engine.tap import early_exit
from sglang_mirror.engine.widths import widths_of


class MirrorWorker(BaseSpecWorker):  # type: ignore[misc]  # SGLang ships no types
    """SGLang's speculative worker for `--speculative-algorithm mirror`.

    Args:
        server_args: SGLang's settings, resolved.
        target_worker: SGLang's worker of the target, its model loaded.
        gpu_id: this rank's number, on a CPU too.
    """

    def __init__(self, *, server_args: Any, target_worker: Any, gpu_id: int, **_: Any) -> None:
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
        captures = self.device != "cpu"
        self._widths = widths_of(self.model_runner, self._shape, captured=captures)
        group = get_tp_group()
        self._verifier = Verifier(self, self.device, group)
        self._exit = early_exit(
            self.model_runner.model,
            self.config,
            topk=self._shape.topk,
            most_nodes=get_schedule().max_running_requests * self._shape.num_nodes,
            group=group,
            barrier=exit_barrier(server_args),
        )
        self._rank: LeadingRank | FollowingRank
        if group.rank_in_group:
            self._rank = FollowingRank(group)
        else:
            replica = replica_of(server_args, gpu_id)
            config = self.config.of_replica(replica)
            place = draft_place(config, server_args, num_gpus=torch.cuda.device_count(), replica=replica)
            self._rank = LeadingRank(
                group,
                config,
                shape=self._shape,
                server_args=server_args,
                place=place,
                vocab_size=self.model_runner.model_config.vocab_size,
                resizable=not captures,
                has_exit=self._exit is not None,
                counters=self.counters,
            )
        self._overlapped = not get_schedule().disable_overlap_schedule
        # The last forward, whose tokens SGLang may not have taken in; and of a decode step its other half.
        self._last = Launched((), lambda: [])
        self._rest: Callable[[], None] | None = None
        # When the last decode step began, unless a prefill followed.
        self._decoding_since: float | None = None

    @property
    def draft_worker(self) -> None:
        """No draft model lives in this process."""
        return None

    def init_attention_backends(self) -> None:
        """SGLang's word between the target's attention and its graphs."""
        super().init_attention_backends()
        make_room(self.model_runner.attn_backend, self._shape.num_nodes)

    def init_cuda_graphs(self) -> None:
        """SGLang's last word before it serves: the draft has loaded meanwhile, or is waited for."""
        super().init_cuda_graphs()
        # With two-batch overlap what is built comes wrapped, and what SGLang builds a second time does not.
        if self.config.speculate != "always" and not self.server_args.enable_two_batch_overlap:
            self._widths.build(get_tp_group())
        self._rank.wait_until_ready()

    # ---- what SGLang's scheduler calls

    def forward_batch_generation(
        self, batch: Any, on_publish: Any = None, grammar_barrier: Any = None, pp_proxy_tensors: Any = None
    ) -> Any:
        """One iteration: a prefill batch through the target alone, or one verification of every request."""
        self._finish()
        if batch.forward_mode.is_extend() or batch.is_extend_in_batch:
            return self._prefill(batch, on_publish, pp_proxy_tensors)
        if batch.forward_mode.is_idle():
            self._verifier.prepare_idle(batch, self._shape)
            return self._verifier.run(batch, self._shape, grammar_barrier)
        result = self._decode(batch, on_publish, grammar_barrier)
        if not self._overlapped:
            self._finish()
        return result

    def _prefill(self, batch: Any, on_publish: Any, pp_proxy_tensors: Any) -> Any:
        self._decoding_since = None
        self._rank.open(batch.reqs)
        result = self._target_worker.forward_batch_generation(batch, pp_proxy_tensors=pp_proxy_tensors)
        result.new_seq_lens = batch.seq_lens
        if on_publish is not None:
            on_publish(result.new_seq_lens)
        self._last = Launched.prefill(batch.reqs, result)
        result.next_draft_input = self._verifier.draft_input(result.next_token_ids)
        result.speculative_num_draft_tokens = self.speculative_num_draft_tokens
        return result

    def _decode(self, batch: Any, on_publish: Any, grammar_barrier: Any) -> Any:
        """The first half of a step: until the verification has been launched."""
        sampled = not batch.sampling_info.is_all_greedy
        unread = [self._last.unread(req) for req in batch.reqs]
        windows, signals = self._rank.windows(batch.reqs, unread, self._begin_cycle(), sampled=sampled)
        shape = self._widths.of(windows)
        laid = lay_out(windows, shape)
        with self._widths.ready_for(shape):
            self._verifier.prepare(batch, laid, shape, unread)
            armed = self._exit if signals else None
            if armed is not None:
                armed.arm(laid.children(shape.topk), self._rank.publisher(windows))
            began = time.monotonic()
            result = self._verifier.run(batch, shape, grammar_barrier)
        if on_publish is not None:
            on_publish(result.new_seq_lens)
        self._last = Launched.decode(batch.reqs, unread, result, shape)
        self._rest = functools.partial(self._commit, self._last, windows, shape, began, armed)
        return result

    def _finish(self) -> None:
        """The second half of the step that was launched last, if there is one."""
        rest, self._rest = self._rest, None
        if rest is not None:
            rest()

    def _commit(
        self, step: Launched, windows: Windows, shape: WindowShape, began: float, armed: EarlyExit | None
    ) -> None:
        """Wait for the verification, and tell the draft what was committed."""
        committed = step.kept
        ended = time.monotonic()
        exit_s = None if armed is None else self._disarm(armed)
        if not any(committed):  # launched before its last requests' end was seen, and finished long after
            return
        self.counters.verify_ms += (ended - began - (exit_s or 0.0)) * 1000
        num_rows = len(windows) * shape.num_nodes
        self._rank.commit(windows, committed, (began, ended), num_rows=num_rows, exit_s=exit_s)

    def _disarm(self, armed: EarlyExit) -> float:
        """The exit's signal comes too late from now on; seconds for which it held the forward up."""
        patience_s = LOCKSTEP_WAIT_MS / 1000 if self.config.lockstep else 0.0
        read_ms, published_ms = armed.disarm(patience_s)
        self.counters.exit_ms += read_ms
        self.counters.rendezvous_ms += published_ms
        return (read_ms + published_ms) / 1000

    def _begin_cycle(self) -> float | None:
        """A decode step begins: seconds since the last one did, which are counted; None after a prefill."""
        now, since = time.monotonic(), self._decoding_since
        self._decoding_since = now
        if since is None:
            return None
        self.counters.cycles += 1
        self.counters.cycle_ms += (now - since) * 1000
        return now - since

    # ---- what SGLang tells us

    def note_request_finished(self, *, rid: str, natural_stop: bool) -> None:  # noqa: ARG002 - SGLang's form
        if self._last.taken_in(rid):  # no forward has followed that would have finished this step
            self._finish()
        self._rank.close([rid])

    def clear_cache_pool(self) -> None:
        """SGLang drops its caches; the draft has none that is not a request's."""

    def report(self) -> dict[str, Any]:
        """The `mirror` object of `/server_info`."""
        plain = {"plain_nodes": self._widths.plain.num_nodes}
        return {**self._rank.report(), **plain, **self.counters.report()}

    # SGLang up to 0.5.20 updates weights through the speculative worker.

    def update_weights_from_disk(self, *args: Any, **kwargs: Any) -> Any:
        return self._target_worker.update_weights_from_disk(*args, **kwargs)

    def update_weights_from_tensor(self, *args: Any, **kwargs: Any) -> Any:
        return self._target_worker.update_weights_from_tensor(*args, **kwargs)

    def update_weights_from_ipc(self, *args: Any, **kwargs: Any) -> Any:
        return self._target_worker.update_weights_from_ipc(*args, **kwargs)
