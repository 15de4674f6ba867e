"""`--speculative-algorithm mirror`: how SGLang sees us."""

from __future__ import annotations

from typing import Any

from sglang.srt.speculative.spec_info import SpeculativeAlgorithm
from sglang.srt.speculative.spec_registry import CustomSpecAlgo

from sglang_mirror.engine import settings
from sglang_mirror.errors import SettingsError


class MirrorAlgorithm(CustomSpecAlgo):  # type: ignore[misc]  # SGLang ships no types
    """Answers what SGLang asks of an algorithm: a standalone draft, without a KV pool in this process."""

    def is_standalone(self) -> bool:
        return True  # verification captures no hidden states

    def has_draft_kv(self) -> bool:
        return False

    def need_topk(self) -> bool:
        return False

    def carries_draft_hidden_states(self) -> bool:
        return False

    def create_future_map(self, device: str, req_to_token_pool: Any, *args: Any, **kwargs: Any) -> Any:
        from sglang_mirror.engine.host import FutureMap  # noqa: PLC0415 - needs a running scheduler

        return FutureMap(device, self, req_to_token_pool, *args, **kwargs)

    def handle_server_args(self, server_args: Any) -> None:
        settings.adopt(server_args)


def _validate(server_args: Any) -> None:
    reasons = settings.problems(server_args)
    if reasons:
        raise SettingsError(reasons)


def register_algorithm() -> None:
    """Make the name known in this process."""

    @SpeculativeAlgorithm.register(  # type: ignore[untyped-decorator]
        "mirror", supports_overlap=True, spec_class=MirrorAlgorithm, validate_server_args=_validate
    )
    def _worker(_server_args: Any) -> type:
        from sglang_mirror.engine.worker import MirrorWorker  # noqa: PLC0415 - needs a running scheduler

        return MirrorWorker
