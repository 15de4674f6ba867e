"""The early exit: what the target will probably say, read after layer l_e while the others still run."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from typing import Any

import torch

from sglang_mirror.engine.host import LogitsMetadata
from sglang_mirror.errors import SettingsError
from sglang_mirror_kernels.select import exit_topk

# Called with token ids [N, kappa] and log-probabilities [N, kappa] of a batch's N nodes.
Publish = Callable[[torch.Tensor, torch.Tensor], None]


class EarlyExit:
    """Taps the input of layer l_e, which is the output of the l_e layers before it.

    Armed for one forward at a time, so that prefill, warm-up and plain steps pass it by.

    Args:
        model: SGLang's `*ForCausalLM`.
        exit_layer: l_e, 1 to the number of layers - 1.
        kappa: candidates a node.

    Attributes:
        read_s: how long the last reading took: norm, head and top-k, as the host sees it.

    Raises:
        SettingsError: the model's layers are not of a kind that we know, or l_e is out of range.
    """

    def __init__(self, model: Any, exit_layer: int, kappa: int) -> None:
        self._model, self._kappa = model, kappa
        self._armed: tuple[torch.Tensor, Publish] | None = None
        self.read_s = 0.0
        layers = getattr(getattr(model, "model", None), "layers", None)
        if layers is None or not hasattr(model.model, "norm") or not hasattr(model, "lm_head"):
            raise SettingsError([_unknown(model, "it has no model.layers, model.norm and lm_head")])
        if not 1 <= exit_layer < len(layers):
            raise SettingsError(
                [
                    f"--mirror-exit-layer {exit_layer}: the model has {len(layers)} layers; "
                    f"give 1 to {len(layers) - 1}"
                ]
            )
        self._parameters = list(inspect.signature(layers[exit_layer].forward).parameters)
        if "forward_batch" not in self._parameters or "hidden_states" not in self._parameters:
            raise SettingsError([_unknown(model, f"its layers take {self._parameters}")])
        if "capture_output" in self._parameters:
            hook = self._tap_boundary
        elif "residual" in self._parameters:
            hook = self._tap_pair
        else:
            raise SettingsError([_unknown(model, f"its layers take {self._parameters}")])
        layers[exit_layer].register_forward_pre_hook(hook, with_kwargs=True)

    def arm(self, children: torch.Tensor, publish: Publish) -> None:
        """Publish the next forward's candidates; `children` are each node's own, padded with -1, [N, c]."""
        self._armed = (children, publish)

    def disarm(self) -> None:
        self._armed = None

    def _tap_boundary(self, _layer: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """SGLang 0.5.21 and later: the layer hands its summed input to a callback."""
        if self._armed is None:
            return None
        batch, earlier = self._argument("forward_batch", args, kwargs), kwargs.get("capture_output")

        def capture(hidden: torch.Tensor, *, owned: bool = False) -> None:
            if earlier is not None:
                earlier(hidden, owned=owned)
            self._read(hidden, batch)

        return args, {**kwargs, "capture_output": capture}

    def _tap_pair(self, _layer: Any, args: Any, kwargs: dict[str, Any]) -> None:
        """Before that: hidden states and residual travel as a pair."""
        if self._armed is None:
            return
        hidden = self._argument("hidden_states", args, kwargs)
        residual = self._argument("residual", args, kwargs)
        self._read(
            hidden if residual is None else hidden + residual, self._argument("forward_batch", args, kwargs)
        )

    def _argument(self, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        return kwargs[name] if name in kwargs else args[self._parameters.index(name)]

    def _read(self, hidden: torch.Tensor, batch: Any) -> None:
        assert self._armed is not None
        children, publish = self._armed
        self._armed = None
        began = time.monotonic()
        normed = self._model.model.norm(hidden.clone())  # SGLang's norms may work in place
        logits = self._model.logits_processor._get_logits(
            normed, self._model.lm_head, LogitsMetadata.from_forward_batch(batch), use_logits_buffer=False
        )[:, : self._model.config.vocab_size]
        found = exit_topk(logits, children, self._kappa)
        self.read_s = time.monotonic() - began
        publish(*found)


def _unknown(model: Any, why: str) -> str:
    return (
        f"--mirror-roots with the early exit: {type(model).__name__} is no model whose layers "
        f"we know ({why}); use --mirror-roots draft"
    )
