"""The `mirror` object of `GET /server_info`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any


def add_report(result: Any, scheduler: Any, *_: Any, **__: Any) -> Any:
    """In the scheduler's process: put the worker's report into its internal state."""
    report = getattr(getattr(scheduler, "draft_worker", None), "report", None)
    if report is not None:
        result.internal_state["mirror"] = report()
    return result


async def lift_report(
    original: Callable[..., Awaitable[list[dict[str, Any]]]], manager: Any, *args: Any, **kwargs: Any
) -> list[dict[str, Any]]:
    """In the server's process: show the first scheduler's report at the top level.

    The route spreads `scheduler_info` there, after it has asked for the internal states.
    """
    states = await original(manager, *args, **kwargs)
    report = next((state["mirror"] for state in states if "mirror" in state), None)
    if report is not None:
        from sglang.srt.entrypoints import http_server  # noqa: PLC0415 - imports the whole server

        global_state = http_server.get_global_state() if hasattr(http_server, "get_global_state") else None
        if global_state is not None:
            global_state.scheduler_info["mirror"] = report
    return states
