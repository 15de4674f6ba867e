"""Takes the target's hidden states between two layers, in whichever form its layers hand them on."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any, Protocol

import torch

from sglang_mirror.config import MirrorConfig
from sglang_mirror.engine.early_exit import DirectExit, EarlyExit
from sglang_mirror.engine.host import LogitsMetadata
from sglang_mirror.engine.streamed_exit import StreamedExit
from sglang_mirror.errors import SettingsError


class Sink(Protocol):
    """Who wants the hidden states."""

    def wants(self, batch: Any) -> bool:
        """Whether it takes those of this forward; asked before every forward's layer l_e."""

    def take(self, hidden: torch.Tensor, batch: Any) -> None:
        """Here they are, [N, width], not to be changed."""

    def finish(self) -> None:
        """The last layer is done."""


class Tap:
    """Hands the input of layer l_e, which is the output of the l_e layers before it, to a sink.

    Args:
        model: SGLang's `*ForCausalLM`.
        exit_layer: l_e, 1 to the number of layers - 1; None for half of them.

    Raises:
        SettingsError: the model's layers are not of a kind that we know, or l_e is out of range.
    """

    def __init__(self, model: Any, exit_layer: int | None) -> None:
        layers = getattr(getattr(model, "model", None), "layers", None)
        if layers is None or not hasattr(model.model, "norm") or not hasattr(model, "lm_head"):
            raise SettingsError([_unknown(model, "it has no model.layers, model.norm and lm_head")])
        exit_layer = exit_layer or len(layers) // 2
        if not 1 <= exit_layer < len(layers):
            raise SettingsError(
                [
                    f"--mirror-exit-layer {exit_layer}: the model has {len(layers)} layers; "
                    f"give 1 to {len(layers) - 1}"
                ]
            )
        self._model = model
        self._num_tokens: int | None = None
        # That part of the head: one object, on which the platform keeps what it knows of it.
        self._part = SimpleNamespace()
        self._layer, self._last = layers[exit_layer], layers[-1]
        self._parameters = list(inspect.signature(self._layer.forward).parameters)
        known = {"forward_batch", "hidden_states"} <= set(self._parameters)
        if not known or not {"capture_output", "residual"} & set(self._parameters):
            raise SettingsError([_unknown(model, f"its layers take {self._parameters}")])

    def connect(self, sink: Sink) -> None:
        """From now on `sink` is asked at every forward."""
        self._sink = sink
        hook = self._at_boundary if "capture_output" in self._parameters else self._at_pair
        self._layer.register_forward_pre_hook(hook, with_kwargs=True)
        self._last.register_forward_hook(lambda *_: sink.finish())

    def limit(self, num_tokens: int) -> None:
        """Leave the vocabulary out from this token id on; most tokenizers number what is frequent first.

        A large model's head is a twentieth of its weights, and the exit reads it beside the layers. What has
        no logit has no share of the probability either.

        Raises:
            SettingsError: the head cannot be read in part.
        """
        processor, weight = self._model.logits_processor, getattr(self._model.lm_head, "weight", None)
        changed = [
            name
            for name in ("final_logit_softcapping", "logit_scale")
            if getattr(processor, name, None) is not None
        ]
        if changed or weight is None or not weight.is_floating_point():
            reason = f"its logits go through {changed[0]}" if changed else "its head is quantized"
            raise SettingsError(
                [f"--mirror-exit-vocab {num_tokens}: {type(self._model).__name__}: {reason}; leave it out"]
            )
        self._num_tokens = num_tokens

    def logits(self, hidden: torch.Tensor, batch: Any) -> torch.Tensor:
        """What the target's own norm and head make of hidden states [N, width]: [N, V]."""
        normed = self._model.model.norm(hidden.clone())  # SGLang's norms may work in place
        processor = self._model.logits_processor
        found: torch.Tensor
        if self._num_tokens is not None:
            self._part.weight = self._model.lm_head.weight[: self._num_tokens]
            found = processor._compute_lm_head(normed, self._part)
            return found
        found = processor._get_logits(
            normed, self._model.lm_head, LogitsMetadata.from_forward_batch(batch), use_logits_buffer=False
        )
        return found[:, : self._model.config.vocab_size]

    def _at_boundary(self, _layer: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """SGLang 0.5.21 and later: the layer hands its summed input to a callback."""
        batch = self._argument("forward_batch", args, kwargs)
        if not self._sink.wants(batch):
            return None
        earlier = kwargs.get("capture_output")

        def capture(hidden: torch.Tensor, *, owned: bool = False) -> None:
            if earlier is not None:
                earlier(hidden, owned=owned)
            self._sink.take(hidden, batch)

        return args, {**kwargs, "capture_output": capture}

    def _at_pair(self, _layer: Any, args: Any, kwargs: dict[str, Any]) -> None:
        """Before that: hidden states and residual travel as a pair."""
        batch = self._argument("forward_batch", args, kwargs)
        if not self._sink.wants(batch):
            return
        hidden = self._argument("hidden_states", args, kwargs)
        residual = self._argument("residual", args, kwargs)
        self._sink.take(hidden if residual is None else hidden + residual, batch)

    def _argument(self, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        return kwargs[name] if name in kwargs else args[self._parameters.index(name)]


def early_exit(
    model: Any, config: MirrorConfig, *, topk: int, most_nodes: int, num_ranks: int
) -> EarlyExit | None:
    """The early exit that the settings ask for, connected to the model; None if they ask for none.

    Args:
        model: SGLang's `*ForCausalLM`, nothing of it captured yet.
        config: the settings.
        topk: children a node, at most.
        most_nodes: nodes of the largest batch.
        num_ranks: that the model is split over; each reads, as the head is split too.

    Raises:
        SettingsError: as `Tap`; or a head that is split over GPUs.
    """
    if config.roots not in ("exit", "union") or not config.root_budget:
        return None
    tap = Tap(model, config.exit_layer)
    if config.exit_vocab is not None and config.exit_vocab < model.config.vocab_size:
        tap.limit(config.exit_vocab)
    device = next(model.parameters()).device
    if num_ranks > 1 and (device.type != "cpu" or config.exit_vocab is not None):
        # On a side stream the head's collective would run beside the layers' own, in an order of its own.
        raise SettingsError(
            [
                f"--mirror-roots {config.roots}: with --tp-size {num_ranks} the early exit is not read on "
                "GPUs, nor in part; use --mirror-roots draft"
            ]
        )
    found: DirectExit | StreamedExit
    if device.type == "cpu":
        found = DirectExit(tap.logits, config.kappa)
    else:
        found = StreamedExit(tap.logits, config.kappa, topk=topk, rows=most_nodes, device=device)
    tap.connect(found)
    return found


def _unknown(model: Any, why: str) -> str:
    return (
        f"--mirror-roots with the early exit: {type(model).__name__} is no model whose layers "
        f"we know ({why}); use --mirror-roots draft"
    )
