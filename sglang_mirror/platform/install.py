"""Puts our torch functions where SGLang has none for this platform."""

from __future__ import annotations

from sglang_mirror.platform import PLATFORM_CLASS


def install() -> None:
    """Register the attention backend and the torch versions of SGLang's speculative functions.

    Does nothing unless our platform is the active one. Call it once, from a plugin's registration: the
    registry applies replacements after all plugins have registered.
    """
    from sglang.srt.platforms import current_platform  # noqa: PLC0415  (this module must be importable without sglang)

    active = type(current_platform)
    if f"{active.__module__}.{active.__qualname__}" != PLATFORM_CLASS:
        return
    from sglang_mirror.platform import replacements  # noqa: PLC0415

    replacements.register()
