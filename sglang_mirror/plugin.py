"""Composition root: what SGLang calls in each of its processes when it loads its plugins.

Inert until someone asks for mirror: registering costs no model, socket or thread, and imports no torch that
SGLang has not imported itself.
"""

from __future__ import annotations


def register() -> None:
    """Register the algorithm, the seams and, on a host without an accelerator, the torch platform's ops."""
    # Imported here: SGLang reads this module's entry point also where it never serves.
    from sglang_mirror.engine.algorithm import register_algorithm  # noqa: PLC0415
    from sglang_mirror.platform.install import install as install_platform  # noqa: PLC0415
    from sglang_mirror_patches.ledger import install as install_seams  # noqa: PLC0415

    install_platform()
    register_algorithm()
    install_seams()
