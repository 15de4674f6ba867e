"""Token files and the random windows cut from them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

TOKEN_DTYPE = np.uint16
TEXTS_AT_ONCE = 256  # tokenized together, on all cores


def write_tokens(path: Path, texts: Iterable[str], tokenizer: PreTrainedTokenizerFast) -> int:
    """Writes every text followed by the end token to `path` (uint16, flat); returns the number of tokens."""
    end = tokenizer.eos_token_id
    partial = path.with_suffix(".partial")
    num_tokens = 0
    with partial.open("wb") as file:
        for tokens in _tokenized(texts, tokenizer):
            ids = np.array([*tokens, end], dtype=TOKEN_DTYPE)
            num_tokens += len(ids)
            file.write(ids.tobytes())
    partial.replace(path)
    return num_tokens


def _tokenized(texts: Iterable[str], tokenizer: PreTrainedTokenizerFast) -> Iterator[list[int]]:
    """Each text's token ids."""
    remaining = iter(texts)
    while batch := list(islice(remaining, TEXTS_AT_ONCE)):
        yield from tokenizer(batch, add_special_tokens=False, return_attention_mask=False)["input_ids"]


class Windows:
    """Random windows of a token file, a pure function of (seed, step): resuming needs the step only.

    Every window starts at a random token, in the middle of a line as often as not, so that nothing that is
    learned depends on position 0. A given share of the windows starts in the first `num_favoured` tokens of
    the file, which are CPython's own library.
    """

    def __init__(
        self,
        path: Path,
        *,
        seed: int = 0,
        num_favoured: int = 0,
        favoured_share: float = 0.0,
        dtype: Any = TOKEN_DTYPE,
    ) -> None:
        self.tokens = np.memmap(path, dtype=dtype, mode="r")
        self.seed = seed
        self.num_favoured = num_favoured
        self.favoured_share = favoured_share if num_favoured else 0.0

    def batch(self, step: int, num_windows: int, window_len: int) -> torch.Tensor:
        """The windows of one step, [num_windows, window_len + 1] int64: inputs and shifted labels overlap."""
        rng = np.random.default_rng((self.seed, step))
        last = len(self.tokens) - window_len - 1
        starts = rng.integers(0, last + 1, num_windows)
        favoured = rng.random(num_windows) < self.favoured_share
        starts[favoured] = rng.integers(0, max(1, min(last, self.num_favoured)), int(favoured.sum()))
        rows = np.stack([self.tokens[i : i + window_len + 1] for i in starts]).astype(np.int64)
        return torch.from_numpy(rows)
