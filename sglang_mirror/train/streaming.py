"""A draft's training into a streaming one: its next token as before, and its streams' tokens behind it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from sglang_mirror.errors import MirrorError
from sglang_mirror.train.distill import CROSS_ENTROPY_SHARE
from sglang_mirror.train.export import fresh_folder
from sglang_mirror.train.streams import ENTRY, FILE, WEIGHT, Streams
from sglang_mirror.train.trainer import Loss

STREAM_WEIGHT = 0.1  # of each stream's loss beside the main one's, as published


class StreamingModel(nn.Module):  # type: ignore[misc]  # torch ships no types
    """A causal language model and its streams.

    Args:
        model: of transformers.
        count: streams.
        num_layers: top layers that they run through.

    Raises:
        MirrorError: as `Streams`.
    """

    def __init__(self, model: Any, *, count: int, num_layers: int) -> None:
        super().__init__()
        self.model = model
        self.streams = Streams(model, count=count, num_layers=num_layers)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits [B, 1 + count, T, V] after tokens [B, T]: of the next token, then of each stream's."""
        hidden = self.model.model(input_ids=tokens, use_cache=False).last_hidden_state
        logits: torch.Tensor = self.model.lm_head(hidden)
        return logits.unflatten(1, (1 + self.streams.count, tokens.shape[1]))


def streaming_loss(student: StreamingModel, target: Any | None, *, compiled: bool) -> Loss:
    """Main loss + STREAM_WEIGHT x each stream's, in nats a token; products in bf16.

    With a target, a token's loss is KL(target || student) + CROSS_ENTROPY_SHARE x cross-entropy, the target's
    distribution being the one at the token's own place; without, it is the cross-entropy.
    """
    if target is not None:
        target.requires_grad_(False).eval()

    def teach(inputs: torch.Tensor) -> torch.Tensor:
        assert target is not None
        hidden = target.model(input_ids=inputs, use_cache=False).last_hidden_state
        taught: torch.Tensor = target.lm_head(hidden).float().log_softmax(-1)
        return taught

    def learn(inputs: torch.Tensor, labels: torch.Tensor, taught: torch.Tensor | None) -> torch.Tensor:
        logits, length = student(inputs), inputs.shape[1]
        total = logits.new_zeros((), dtype=torch.float32)
        for ahead in range(1 + student.streams.count):
            said = logits[:, ahead, : length - ahead].float().log_softmax(-1).flatten(0, 1)
            wrong = F.nll_loss(said, labels[:, ahead:].flatten())
            if taught is not None:
                wanted = taught[:, ahead:].flatten(0, 1)
                divergence = F.kl_div(said, wanted, reduction="batchmean", log_target=True)
                wrong = divergence + CROSS_ENTROPY_SHARE * wrong
            total = total + (STREAM_WEIGHT if ahead else 1.0) * wrong
        return total

    if compiled:
        teach, learn = torch.compile(teach, dynamic=False), torch.compile(learn, dynamic=False)

    def loss(inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        with torch.autocast(inputs.device.type, torch.bfloat16):
            taught = None
            if target is not None:
                with torch.no_grad():
                    taught = teach(inputs)
            return learn(inputs, labels, taught)

    return loss


def save_streaming(student: StreamingModel, source: Path, folder: Path, card: str) -> None:
    """Writes a streaming draft: the folder `source` with new weights and one more entry in its config.

    Args:
        student: trained; its weights are written in the dtype of `source`'s config, else bfloat16.
        source: folder of the model that it began as.
        folder: where it goes; replaced whole, at the end.
        card: its README.md.
    """
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    dtype = getattr(torch, str(config.get("torch_dtype") or config.get("dtype") or "bfloat16"))
    tied = bool(config.get("tie_word_embeddings"))
    weights = {
        name: weight.to("cpu", dtype).contiguous()
        for name, weight in student.model.state_dict().items()
        if not (tied and name == "lm_head.weight")
    }
    embeddings = student.streams.embeddings.detach().to("cpu", dtype).contiguous()
    config[ENTRY] = {"count": student.streams.count, "layers": student.streams.num_layers}
    with fresh_folder(folder) as partial:
        for file in source.iterdir():
            if file.is_file() and file.suffix not in (".safetensors", ".bin", ".md"):
                shutil.copyfile(file, partial / file.name)
        save_file(weights, partial / "model.safetensors", {"format": "pt"})
        save_file({WEIGHT: embeddings}, partial / FILE, {"format": "pt"})
        (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        (partial / "README.md").write_text(card, encoding="utf-8")


def load_streaming(folder: Path) -> StreamingModel:
    """A folder that `save_streaming` wrote, in float32.

    Raises:
        MirrorError: it is no streaming draft, or its streams are damaged.
    """
    from transformers import AutoModelForCausalLM  # noqa: PLC0415 - takes seconds

    entry = json.loads((folder / "config.json").read_text(encoding="utf-8")).get(ENTRY)
    if entry is None:
        raise MirrorError(f"{folder}: no streaming draft, its config.json has no {ENTRY}")
    if not (folder / FILE).is_file():
        raise MirrorError(f"{folder}: its config promises {entry['count']} streams, and there is no {FILE}")
    embeddings = load_file(folder / FILE)[WEIGHT]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    student = StreamingModel(model, count=entry["count"], num_layers=entry["layers"])
    wanted = tuple(student.streams.embeddings.shape)
    if tuple(embeddings.shape) != wanted:
        found = tuple(embeddings.shape)
        raise MirrorError(f"{folder}: {entry['count']} streams need embeddings {wanted}, found {found}")
    with torch.no_grad():
        student.streams.embeddings.copy_(embeddings.float())
    student.eval()
    return student
