"""Takes the target's hidden states between two layers, in whichever form its layers hand them on."""

from __future__ import annotations

import copy
import inspect
import logging
from types import SimpleNamespace
from typing import Any, Protocol

import torch

from sglang_mirror.config import MirrorConfig
from sglang_mirror.engine.early_exit import DirectExit, EarlyExit
from sglang_mirror.engine.exit_head import ExitHead
from sglang_mirror.engine.host import LogitsMetadata
from sglang_mirror.engine.mailbox import Place
from sglang_mirror.engine.shared_memory import register_with_cuda, shared_numbers
from sglang_mirror.engine.streamed_exit import StreamedExit
from sglang_mirror.errors import SettingsError

logger = logging.getLogger(__name__)

# What SGLang's models of images and sound call the one that they speak through, where it is a part of them.
LANGUAGE_MODELS = ("language_model", "llm", "model")


class Sink(Protocol):
    """Who wants the hidden states."""

    def wants(self, batch: Any) -> bool:
        """Whether it takes those of this forward; asked before every forward's layer l_e."""

    def take(self, hidden: torch.Tensor, batch: Any) -> None:
        """Here they are, [N, width], the sink's own."""

    def finish(self) -> None:
        """The last layer is done."""


class Tap:
    """Hands the input of layer l_e, which is the output of the l_e layers before it, to a sink.

    Args:
        model: SGLang's `*ForCausalLM`, or a model of images and more that speaks through one.
        exit_layer: l_e, 1 to the number of layers - 1; None for half of them.

    Attributes:
        ids: token ids whose logits are read.

    Raises:
        SettingsError: the model's layers are not of a kind that we know, or l_e is out of range.
    """

    def __init__(self, model: Any, exit_layer: int | None) -> None:
        inner = (getattr(model, name, None) for name in LANGUAGE_MODELS)
        causal: Any = next(filter(_is_causal, (model, *inner)), None)
        if causal is None:
            raise SettingsError([_unknown(model, "it has no model.layers, model.norm and lm_head")])
        layers = causal.model.layers
        exit_layer = exit_layer or len(layers) // 2
        if not 1 <= exit_layer < len(layers):
            raise SettingsError(
                [
                    f"--mirror-exit-layer {exit_layer}: the model has {len(layers)} layers; "
                    f"give 1 to {len(layers) - 1}"
                ]
            )
        self._model, self._processor = causal, causal.logits_processor
        self.ids = range(causal.config.get_text_config().vocab_size)
        self._is_limited = self._has_warned = False
        # What is read of a limited head: one object, on which the platform keeps what it knows of it.
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

    def split(self, num_ranks: int) -> None:
        """Read this rank's part of the head only, and ask the others for nothing.

        Raises:
            SettingsError: the head is not split over so many ranks.
        """
        head = self._model.lm_head
        indices = getattr(head, "shard_indices", None)
        if indices is None or head.tp_size != num_ranks:
            raise SettingsError(
                [_unknown(self._model, f"its head is not split over the {num_ranks} ranks of --tp-size")]
            )
        # What lies behind these ids pads the vocabulary.
        self.ids = self.ids[indices.org_vocab_start_index : indices.org_vocab_end_index]
        # SGLang's own, with all that it does to logits, but for the other ranks' logits.
        self._processor = copy.copy(self._processor)
        self._processor.do_tensor_parallel_all_gather = False

    def limit(self, num_tokens: int) -> None:
        """Leave the vocabulary out from this token id on; most tokenizers number what is frequent first.

        A large model's head is a twentieth of its weights, and the exit reads it beside the layers. What has
        no logit has no share of the probability either.

        Raises:
            SettingsError: the head cannot be read in part.
        """
        weight = getattr(self._model.lm_head, "weight", None)
        changed = [
            name
            for name in ("final_logit_softcapping", "logit_scale")
            if getattr(self._processor, name, None) is not None
        ]
        if changed or weight is None or not weight.is_floating_point():
            reason = f"its logits go through {changed[0]}" if changed else "its head is quantized"
            raise SettingsError(
                [f"--mirror-exit-vocab {num_tokens}: {type(self._model).__name__}: {reason}; leave it out"]
            )
        self.ids = self.ids[: max(0, num_tokens - self.ids.start)]
        self._is_limited = True

    def logits(self, hidden: torch.Tensor, batch: Any) -> torch.Tensor:
        """What the target's own norm and head make of hidden states [N, width], which it may change.

        Returns:
            [N, len(ids)]
        """
        if not self.ids:
            return hidden.new_empty(len(hidden), 0)
        normed = self._model.model.norm(hidden)  # in place, it may be
        found: torch.Tensor
        if self._is_limited:
            self._part.weight = self._model.lm_head.weight[: len(self.ids)]
            found = self._processor._compute_lm_head(normed, self._part)
            return found
        found = self._processor._get_logits(
            normed, self._model.lm_head, LogitsMetadata.from_forward_batch(batch), use_logits_buffer=False
        )
        return found[:, : len(self.ids)]

    def _at_boundary(self, _layer: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """SGLang 0.5.21 and later: the layer hands its summed input to a callback."""
        batch = self._argument("forward_batch", args, kwargs)
        if not self._sink.wants(batch):
            return None
        earlier = kwargs.get("capture_output")

        def capture(hidden: torch.Tensor, *, owned: bool = False) -> None:
            if earlier is not None:
                earlier(hidden, owned=owned)
            # What is lent is changed by the very layer; a sink on another stream would read it then.
            lent = earlier is not None or not owned
            self._sink.take(hidden.clone() if lent else hidden, batch)

        return args, {**kwargs, "capture_output": capture}

    def _at_pair(self, _layer: Any, args: Any, kwargs: dict[str, Any]) -> None:
        """Before that: hidden states and residual travel as a pair."""
        batch = self._argument("forward_batch", args, kwargs)
        if not self._sink.wants(batch):
            return
        hidden = self._argument("hidden_states", args, kwargs)
        if getattr(hidden, "_sglang_needs_allreduce_fusion", False):
            # The next norm will add the other ranks' shares; here that would take a collective of our own.
            self._warn()
            return
        residual = self._argument("residual", args, kwargs)
        self._sink.take(hidden.clone() if residual is None else hidden + residual, batch)

    def _warn(self) -> None:
        if not self._has_warned:
            logger.warning(
                "mirror: the early exit is not read: this model's layers leave their sum over ranks to the "
                "next norm; use SGLang 0.5.21 or later, or --enforce-disable-flashinfer-allreduce-fusion"
            )
        self._has_warned = True

    def _argument(self, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        return kwargs[name] if name in kwargs else args[self._parameters.index(name)]


def early_exit(
    model: Any, config: MirrorConfig, *, topk: int, most_nodes: int, group: Any, barrier: str | None = None
) -> EarlyExit | None:
    """The early exit that the settings ask for, connected to the model.

    None if they ask for none; or leave it open, and it cannot be read: then the log says why.

    Args:
        model: SGLang's, nothing of it captured yet.
        config: the settings.
        topk: children a node, at most.
        most_nodes: nodes of the largest batch.
        group: SGLang's group of the target's ranks; each reads, as the head is split too.
        barrier: why it cannot be read, whatever the model.

    Raises:
        SettingsError: as `Tap`, `Tap.split` and `Tap.limit`, where the settings insist.
        MirrorError: GPUs of one target without a memory that all of them can write into.
    """
    if not config.has_exit:
        return None
    try:
        tap = _tap(model, config, group.world_size, barrier)
    except SettingsError as error:  # the same on all ranks
        if config.insists_on_exit:
            raise
        logger.warning("mirror: without the early exit: %s", "; ".join(error.reasons))
        return None
    head = ExitHead(tap.logits, config.kappa, start=tap.ids.start, num_ranks=group.world_size)
    device = next(model.parameters()).device
    found: DirectExit | StreamedExit
    if device.type == "cpu":
        found = DirectExit(head, group)
    else:
        letters = _letters(group, Place.length(most_nodes, head.width))
        found = StreamedExit(
            head,
            topk=topk,
            device=device,
            letters=letters,
            rank=group.rank_in_group,
        )
    tap.connect(found)
    return found


def _tap(model: Any, config: MirrorConfig, num_ranks: int, barrier: str | None) -> Tap:
    if barrier is not None:
        raise SettingsError([barrier])
    tap = Tap(model, config.exit_layer)
    vocab_size = len(tap.ids)
    if num_ranks > 1:
        tap.split(num_ranks)
    if config.exit_vocab is not None and config.exit_vocab < vocab_size:
        tap.limit(config.exit_vocab)
    return tap


def _letters(group: Any, length: int) -> torch.Tensor:
    """A place for each rank's letter, int32 [ranks, length]; pinned."""
    if group.world_size == 1:
        return torch.zeros(1, length, dtype=torch.int32, pin_memory=True)
    shared = shared_numbers(group, group.world_size * length, register_with_cuda)
    return shared.view(group.world_size, length)


def _is_causal(model: Any) -> bool:
    body = getattr(model, "model", None)
    return hasattr(body, "layers") and hasattr(body, "norm") and hasattr(model, "lm_head")


def _unknown(model: Any, why: str) -> str:
    return (
        f"--mirror-roots with the early exit: {type(model).__name__} is no model whose layers "
        f"we know ({why}); use --mirror-roots draft"
    )
