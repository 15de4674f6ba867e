"""An EAGLE3 head for the embedded target, the baseline that a comparison needs.

One decoder layer reads the token that was just chosen and a feature of the position before it, and says the
next token. At the committed text a feature is made of three of the target's hidden states, low, middle and
high; at the tokens that the head drafts itself, it is the head's own output. Training imitates that
("training-time test", EAGLE-3, arXiv 2503.01840, section 3.2): the head runs `STEPS` times over each window,
each time on its own outputs of the time before.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import Qwen3Config, Qwen3ForCausalLM

from sglang_mirror.train.trainer import Loss

STEPS = 7
# A step counts for so much of the one before it: its token matters only if all before it are accepted.
STEP_DECAY = 0.8


def feature_layers(num_layers: int) -> tuple[int, int, int]:
    """After how many layers SGLang reads the three hidden states, by default."""
    return 2, num_layers // 2, num_layers - 3


@dataclass(slots=True)
class Drafted:
    """Keys and values of the steps so far, each [B, kv heads, T, head dim]; the first are the text's."""

    keys: list[torch.Tensor]
    values: list[torch.Tensor]


class Layer(nn.Module):  # type: ignore[misc]  # torch ships no types
    """The head's decoder layer; parameters under the names that SGLang's checkpoint loader knows."""

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        width, head_dim = config.hidden_size, config.head_dim
        self.num_heads, self.num_kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim, self.theta = head_dim, float(config.rope_parameters["rope_theta"])
        self.input_layernorm = nn.RMSNorm(width, config.rms_norm_eps)
        self.hidden_norm = nn.RMSNorm(width, config.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(width, config.rms_norm_eps)
        self.self_attn = nn.ModuleDict(
            {
                "q_proj": nn.Linear(2 * width, self.num_heads * head_dim, bias=False),
                "k_proj": nn.Linear(2 * width, self.num_kv_heads * head_dim, bias=False),
                "v_proj": nn.Linear(2 * width, self.num_kv_heads * head_dim, bias=False),
                "o_proj": nn.Linear(self.num_heads * head_dim, width, bias=False),
            }
        )
        self.mlp = nn.ModuleDict(
            {
                "gate_proj": nn.Linear(width, config.intermediate_size, bias=False),
                "up_proj": nn.Linear(width, config.intermediate_size, bias=False),
                "down_proj": nn.Linear(config.intermediate_size, width, bias=False),
            }
        )

    def forward(self, embeds: torch.Tensor, features: torch.Tensor, drafted: Drafted) -> torch.Tensor:
        """One step for each position of a window, [B, T, width]; `drafted` takes its keys and values."""
        both = torch.cat((self.input_layernorm(embeds), self.hidden_norm(features)), -1)
        hidden = features + self.self_attn["o_proj"](self._attend(both, drafted))
        normed = self.post_attention_layernorm(hidden)
        gated = F.silu(self.mlp["gate_proj"](normed)) * self.mlp["up_proj"](normed)
        out: torch.Tensor = hidden + self.mlp["down_proj"](gated)
        return out

    def _attend(self, both: torch.Tensor, drafted: Drafted) -> torch.Tensor:
        """Position t of step k sees the text up to t, and of each step since then its own position.

        Returns:
            [B, T, heads * head dim].
        """
        step, length = len(drafted.keys), both.shape[1]
        positions = torch.arange(step, step + length, device=both.device)
        query = self._rotated(self._heads("q_proj", both), positions)
        drafted.keys.append(self._rotated(self._heads("k_proj", both), positions))
        drafted.values.append(self._heads("v_proj", both))
        group = self.num_heads // self.num_kv_heads
        keys = [key.repeat_interleave(group, 1) for key in drafted.keys]
        values = [value.repeat_interleave(group, 1) for value in drafted.values]
        text = query @ keys[0].transpose(-1, -2)  # [B, heads, T, T]
        future = torch.ones(length, length, dtype=torch.bool, device=both.device).triu(1)
        text = text.masked_fill(future, float("-inf"))
        own = [(query * key).sum(-1, keepdim=True) for key in keys[1:]]  # [B, heads, T, 1] each
        shares = (torch.cat((text, *own), -1) * self.head_dim**-0.5).softmax(-1, dtype=torch.float32)
        shares = shares.to(query.dtype)
        out = shares[..., :length] @ values[0]
        for number, value in enumerate(values[1:]):
            out = out + shares[..., length + number, None] * value
        return out.transpose(1, 2).flatten(2)

    def _heads(self, name: str, both: torch.Tensor) -> torch.Tensor:
        """[B, T, 2 * width] -> [B, heads, T, head dim]"""
        return self.self_attn[name](both).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def _rotated(self, heads: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Rotary embedding, the halves of a head as pairs."""
        half = self.head_dim // 2
        exponents = -torch.arange(half, device=positions.device) / half
        angles = positions[:, None] * self.theta**exponents  # [T, half]
        cos, sin = angles.cos().to(heads.dtype), angles.sin().to(heads.dtype)
        first, second = heads.chunk(2, -1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


class Eagle3Head(nn.Module):  # type: ignore[misc]  # torch ships no types
    """What an EAGLE3 checkpoint holds: everything but the embedding, which is the target's.

    Args:
        target: whose embedding it reads, and whose head its own starts as.
    """

    def __init__(self, target: Qwen3ForCausalLM) -> None:
        super().__init__()
        config = target.config
        width = config.hidden_size
        self.feature_layers = feature_layers(config.num_hidden_layers)
        self.fc = nn.Linear(3 * width, width, bias=False)
        self.layers = nn.ModuleList([Layer(config)])
        self.norm = nn.RMSNorm(width, config.rms_norm_eps)
        self.lm_head = nn.Linear(width, config.vocab_size, bias=False)
        self.lm_head.weight.data.copy_(target.lm_head.weight.data)
        self._embedding = [target.model.embed_tokens]  # in a list: it is not ours, and not to be trained

    def features(self, hidden_states: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Of the target's hidden states after each number of layers, [B, T, width] each."""
        found: torch.Tensor = self.fc(torch.cat([hidden_states[layer] for layer in self.feature_layers], -1))
        return found

    def step(self, tokens: torch.Tensor, features: torch.Tensor, drafted: Drafted) -> torch.Tensor:
        """The next features, from these [B, T, width] and the tokens [B, T] that follow them."""
        out: torch.Tensor = self.layers[0](self._embedding[0](tokens), features, drafted)
        return out

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """[B, T, width] -> [B, T, V]"""
        found: torch.Tensor = self.lm_head(self.norm(features))
        return found


def eagle3_loss(head: Eagle3Head, target: Qwen3ForCausalLM, *, compiled: bool) -> Loss:
    """Mean over the steps, weighted, of KL(target || head), in nats a token; products in bf16."""
    target.requires_grad_(False).eval()

    def teach(inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        out = target.model(input_ids=inputs, use_cache=False, output_hidden_states=True)
        taught = target.lm_head(out.last_hidden_state).float().log_softmax(-1)
        return taught, *(out.hidden_states[layer] for layer in head.feature_layers)

    def learn(labels: torch.Tensor, taught: torch.Tensor, *states: torch.Tensor) -> torch.Tensor:
        features, drafted = head.fc(torch.cat(states, -1)), Drafted([], [])
        length, total, weights = labels.shape[1], labels.new_zeros((), dtype=torch.float32), 0.0
        for step in range(STEPS):
            features = head.step(shifted(labels, step), features, drafted)
            said = head.logits(features).float().log_softmax(-1)[:, : length - 1 - step]
            wanted = taught[:, 1 + step :]
            divergence = F.kl_div(
                said.flatten(0, 1), wanted.flatten(0, 1), reduction="batchmean", log_target=True
            )
            total = total + STEP_DECAY**step * divergence
            weights += STEP_DECAY**step
        return total / weights

    if compiled:
        teach, learn = torch.compile(teach, dynamic=False), torch.compile(learn, dynamic=False)

    def loss(inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        with torch.autocast(inputs.device.type, torch.bfloat16):
            with torch.no_grad():
                taught, *states = teach(inputs)
            return learn(labels, taught, *states)

    return loss


def shifted(tokens: torch.Tensor, count: int) -> torch.Tensor:
    """Tokens [B, T]: at place t what stood at t + count, or 0 where nothing did."""
    return F.pad(tokens[:, count:], (0, count))
