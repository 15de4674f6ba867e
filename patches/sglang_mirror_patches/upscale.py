"""Models enlarged for benchmarks: their weights are made while SGLang loads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sglang_mirror.upscale.folder import enlarged_weights, is_enlarged


def enlarge(
    original: Callable[..., Iterator[Any]], loader: Any, source: Any, **options: Any
) -> Iterator[Any]:
    """The checkpoint's weights; of an enlarged model's folder, the large ones."""
    weights = original(loader, source, **options)
    folder = Path(source.model_or_path)
    return enlarged_weights(folder, weights) if is_enlarged(folder) else weights
