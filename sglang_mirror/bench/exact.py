"""The exact law of the next token, from the target through transformers, and the plain sampler's filters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

NO_TOP_K = 1 << 30


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling parameters, by the names of SGLang's API."""

    name: str
    temperature: float = 1.0
    top_k: int = NO_TOP_K
    top_p: float = 1.0
    min_p: float = 0.0

    def parameters(self) -> dict[str, Any]:
        chosen = {"temperature": self.temperature, "top_p": self.top_p, "min_p": self.min_p}
        return chosen if self.top_k == NO_TOP_K else {**chosen, "top_k": self.top_k}


def law(logits: torch.Tensor, sampling: Sampling, *, jointly: bool = True) -> npt.NDArray[np.float64]:
    """Probabilities [N, V] of the next token from logits [N, V], as the plain server samples.

    All filters look at the probabilities as they came out of the softmax: a token stays if fewer than top_k
    are more probable, if those have at most top_p together, and if its own is at least min_p of the largest.
    With `jointly` False, top_p looks at what top_k left, renormalised, as SGLang's own verification does.
    """
    probs = torch.softmax(logits.double() / sampling.temperature, dim=-1)
    ordered, order = probs.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(probs.shape[-1])
    ordered = ordered.masked_fill(rank >= sampling.top_k, 0.0)
    whole = ordered / ordered.sum(-1, keepdim=True) if not jointly else ordered
    before = whole.cumsum(-1) - whole
    too_small = ordered < sampling.min_p * probs.amax(-1, keepdim=True)
    ordered = ordered.masked_fill((before > sampling.top_p) | too_small, 0.0)
    filtered = torch.zeros_like(probs).scatter(-1, order, ordered)
    law_: npt.NDArray[np.float64] = (filtered / filtered.sum(-1, keepdim=True)).numpy()
    return law_


class ExactTarget:
    """The target in fp32, on the CPU.

    Args:
        folder: the model's.
    """

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415 - takes seconds

        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self._model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def tokens_of(self, text: str) -> list[int]:
        """Token ids of a prompt, as the server makes them."""
        tokens: list[int] = self.tokenizer.encode(text)
        return tokens

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def next_logits(self, texts: Sequence[Sequence[int]], first: int) -> torch.Tensor:
        """Logits after each token from index `first` on, the last token's left out.

        `texts` are of one length L: [B, L - 1 - first, V].
        """
        logits: torch.Tensor = self._model(input_ids=torch.tensor(texts)).logits[:, first:-1]
        return logits
