"""`python -m sglang_mirror_patches.document`: the ledger as docs/seams.md."""

from __future__ import annotations

from pathlib import Path

from sglang_mirror_patches.ledger import SEAMS

PATH = Path(__file__).resolve().parents[2] / "docs" / "seams.md"
HEAD = """# Seams

Where mirror hooks SGLang beyond its documented plugin interfaces. Generated from the ledger by
`python -m sglang_mirror_patches.document`; do not edit.

| target | kind | why | since | only | remove when |
|---|---|---|---|---|---|
"""


def document() -> str:
    """The ledger as Markdown."""
    cells = [
        (f"`{seam.target}`", seam.kind, seam.why, seam.since, ", ".join(seam.only), seam.remove_when)
        for seam in SEAMS
    ]
    rows = [f"| {' | '.join(row)} |" for row in cells]
    return HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    PATH.write_text(document(), encoding="utf-8")
