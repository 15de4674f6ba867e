"""The ledger of seams: every place where we hook SGLang, with its reason and its end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from sglang_mirror_patches import context_room, draft_kv, flags, server_info, upscale, verification


@dataclass(frozen=True, slots=True)
class Seam:
    """One hook.

    Attributes:
        target: the dotted name of what is hooked.
        kind: how: AFTER sees the result, AROUND gets the original.
        hook: ours; hands over to the original unless mirror is asked for.
        why: what SGLang does not offer.
        since: the first SGLang release in which the target is as we expect it.
        remove_when: what would make it unnecessary.
        only: the releases that have the target; empty if all have it.
    """

    target: str
    kind: Literal["AFTER", "AROUND"]
    hook: Callable[..., Any]
    why: str
    since: str
    remove_when: str
    only: tuple[str, ...] = ()

    def fits(self, version: str) -> bool:
        """Whether SGLang `version` has the target."""
        return not self.only or version in self.only


SEAMS = (
    Seam(
        target="sglang.srt.server_args.ServerArgs.add_cli_args",
        kind="AFTER",
        hook=flags.add_flags,
        why="a plugin cannot declare command-line flags",
        since="0.5.17",
        remove_when="SGLang lets a registered algorithm add flags",
    ),
    Seam(
        target="sglang.srt.server_args.ServerArgs.from_cli_args",
        kind="AROUND",
        hook=flags.read_flags,
        why="our flags must reach the processes that SGLang starts, and bad settings end with a message",
        since="0.5.17",
        remove_when="SGLang hands unknown flags to the algorithm",
    ),
    Seam(
        target="sglang.srt.managers.scheduler.Scheduler.get_internal_state",
        kind="AFTER",
        hook=server_info.add_report,
        why="a worker cannot add to the scheduler's report",
        since="0.5.17",
        remove_when="BaseSpecWorker may report its state",
    ),
    Seam(
        target="sglang.srt.managers.tokenizer_manager.TokenizerManager.get_internal_state",
        kind="AROUND",
        hook=server_info.lift_report,
        why="`mirror` belongs at the top of /server_info, whose route cannot be hooked",
        since="0.5.17",
        remove_when="as above",
    ),
    Seam(
        target="sglang.srt.speculative.eagle_utils.eagle_sample",
        kind="AROUND",
        hook=verification.around_eagle_sample,
        why="verification counts one said token a step and shows every node the same: the text would differ",
        since="0.5.17",
        remove_when="SGLang's verification penalises node by node",
    ),
    Seam(
        target="sglang.srt.speculative.eagle_utils.verify_tree_greedy_func",
        kind="AROUND",
        hook=verification.around_walk,
        why="sampled verification filters otherwise than the plain server, and leaves min-p out",
        since="0.5.17",
        remove_when="SGLang's verification samples with the plain server's sampler",
    ),
    Seam(
        target="sglang.srt.mem_cache.allocation_sizing.get_req_to_token_extra_context_len",
        kind="AROUND",
        hook=context_room.with_room,
        why="at the context's end a step's reserved slots would be written into another request's row",
        since="0.5.17",
        remove_when="SGLang's rows hold what it reserves before a step of speculation, at any page size",
    ),
    Seam(
        target="sglang.srt.model_loader.loader.DefaultModelLoader._get_weights_iterator",
        kind="AROUND",
        hook=upscale.enlarge,
        why="benchmarks serve a small model in a large one's shape, in every arm, and store nothing large",
        since="0.5.17",
        remove_when="SGLang's --custom-weight-loader serves the first load too",
    ),
    Seam(
        target="sglang.srt.mem_cache.kv_cache_builder.get_draft_kv_pool",
        kind="AROUND",
        hook=draft_kv.without_ours,
        why="it asks every speculative worker for a draft runner in its own process",
        since="0.5.17",
        remove_when="0.5.20 is no longer supported",
        only=("0.5.17", "0.5.19", "0.5.20"),
    ),
)


def install() -> None:
    """Register every seam that this SGLang has with its hook registry, which logs what fails."""
    from sglang import __version__  # noqa: PLC0415 - only inside SGLang
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType  # noqa: PLC0415

    for seam in SEAMS:
        if not seam.fits(__version__):
            continue
        HookRegistry.register(seam.target, seam.hook, HookType[seam.kind])
