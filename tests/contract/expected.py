"""Where releases differ from what our sources use, and why that is fine. Every row must be true."""

from __future__ import annotations

from dataclasses import dataclass

from packaging.version import Version


@dataclass(frozen=True)
class Difference:
    """One finding that is no fault.

    Attributes:
        finding: its text, as the checks say it.
        first: the first release that has the difference.
        last: the last; None if the newest has it.
        why: why our code can live with it.
    """

    finding: str
    first: str
    last: str | None
    why: str

    def holds(self, release: str) -> bool:
        here = Version(release)
        return Version(self.first) <= here and (self.last is None or here <= Version(self.last))


_TARGET = "sglang.srt.managers.tp_worker.TpModelWorker"
_DSPARK = "only DSpark's worker is asked, or told by its own control keys"
_WEIGHTS = "up to 0.5.20 the scheduler updates weights through its workers, afterwards through their runners"

DIFFERENCES: tuple[Difference, ...] = (
    Difference(
        "MirrorWorker has no draft_worker.draft_runner",
        "0.5.17",
        "0.5.20",
        "asked by get_draft_kv_pool, which is hooked, and of drafts that relay hidden states",
    ),
    Difference(
        "MirrorWorker has no draft_worker.draft_runner_list", "0.5.17", "0.5.17", "asked by get_draft_kv_pool"
    ),
    Difference(
        "MirrorWorker has no draft_worker.draft_runner_list", "0.5.19", "0.5.20", "asked by get_draft_kv_pool"
    ),
    Difference("MirrorWorker has no block_accept_estimate_log_suffix", "0.5.17", None, _DSPARK),
    Difference("MirrorWorker has no clear_info_records", "0.5.17", None, _DSPARK),
    Difference("MirrorWorker has no dump_info_records", "0.5.17", None, _DSPARK),
    Difference("MirrorWorker has no get_confidence_budget_prepare", "0.5.17", None, _DSPARK),
    Difference("MirrorWorker has no set_dspark_forced_budget_frac", "0.5.17", None, _DSPARK),
    Difference("MirrorWorker.update_weights_from_disk is not asked for", "0.5.21", None, _WEIGHTS),
    Difference("MirrorWorker.update_weights_from_ipc is not asked for", "0.5.21", None, _WEIGHTS),
    *(
        Difference(f"{_TARGET}.update_weights_from_{source} is not there", "0.5.21", None, _WEIGHTS)
        for source in ("disk", "ipc", "tensor")
    ),
    Difference(
        "sglang.srt.server_args.ServerArgs.speculative_draft_kv_cache_dtype is not there",
        "0.5.17",
        "0.5.17",
        "refused where it is given, and there nobody can",
    ),
    Difference(
        "MirrorAlgorithm has no get_platform_worker_cls",
        "0.5.23",
        None,
        "the enum asks itself; adaptive speculation asks once it has turned away all but SGLang's own drafts",
    ),
)
