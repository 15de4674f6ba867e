"""The EAGLE3 head as one resumable command: `python -m sglang_mirror.train.eagle3_recipe`.

On the same text as the draft, most of it the target's own; the head is measured as the draft is, and written
in the form that SGLang loads.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen3ForCausalLM

from sglang_mirror.train import attention
from sglang_mirror.train.beside import (
    REFERENCE,
    arguments,
    begin,
    keep_measured,
    mixed_windows,
    plan_of,
    short_prompts,
)
from sglang_mirror.train.eagle3 import STEPS, Drafted, Eagle3Head, eagle3_loss, shifted
from sglang_mirror.train.generate import continue_rows
from sglang_mirror.train.optim import Budget
from sglang_mirror.train.prepare import prepare
from sglang_mirror.train.shapes import target_config
from sglang_mirror.train.start import start_model
from sglang_mirror.train.tokenizer import load_tokenizer
from sglang_mirror.train.trainer import Trainer

OWN_TEXT_SHARE = 0.6  # of each step's rows
NUM_TOKENS = 96
# Of the target's config, in the head's.
SAME = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"),
    *("head_dim", "rms_norm_eps", "max_position_embeddings", "hidden_act", "eos_token_id", "pad_token_id"),
)


def train_head(work: Path, target: Qwen3ForCausalLM, budget: Budget, *, tokens_per_step: int) -> Trainer:
    """Trains the head on the target's device for a number of seconds; its checkpoint is `work`/eagle3.pt."""
    assert budget.seconds is not None
    windows = mixed_windows(work, target, "eagle3", seed=21, share=OWN_TEXT_SHARE, seconds=budget.seconds)
    target.set_attn_implementation(attention.NAME)
    head = Eagle3Head(target).to(target.device)
    plan = plan_of(budget, tokens_per_step=tokens_per_step)
    # A GPU trains on so little so fast that compiling would take longer than it saves.
    loss = eagle3_loss(head, target, compiled=target.device.type == "cpu")
    trainer = Trainer(head, loss, windows, plan, work / "eagle3.pt")
    trainer.train()
    return trainer


def measured(folder: Path, target: Qwen3ForCausalLM, data: Path) -> dict[str, Any]:
    """`head_acceptance` of the head in `folder`, as it is shipped, after the first held-out prompts."""
    head = Eagle3Head(target)
    head.load_state_dict(load_file(folder / "model.safetensors"))
    prompts = short_prompts(data, load_tokenizer(folder))
    target.set_attn_implementation("sdpa")
    found: dict[str, Any] = head_acceptance(head.float().to(target.device).eval(), target, prompts)
    return found


@torch.inference_mode()  # type: ignore[untyped-decorator]
def head_acceptance(
    head: Eagle3Head, target: Qwen3ForCausalLM, prompts: Sequence[list[int]]
) -> dict[str, Any]:
    """Accepted length of a chain of STEPS tokens at temperature 0, and each position's chance if reached.

    As in `evaluate`, no rollout is needed: a token is asked for only while all before it agreed with the
    target's own.
    """
    gamma, steps = STEPS, 0
    reached, agreed = [0] * gamma, [0] * gamma
    for ids in prompts:
        prompt = torch.tensor([ids], device=target.device)
        row = torch.cat([prompt, continue_rows(target, prompt, NUM_TOKENS, torch.tensor([0.0]))], 1)
        features = head.features(target.model(row[:, :-1], output_hidden_states=True).hidden_states)
        drafted, proposals = Drafted([], []), []
        for step in range(gamma):
            features = head.step(shifted(row[:, 1:], step), features, drafted)
            proposals.append(head.logits(features)[0].argmax(-1).tolist())
        text = row[0].tolist()
        root = len(ids) - 1  # the last committed token
        while root + gamma + 1 < row.shape[1]:
            accepted = 0
            while accepted < gamma:
                reached[accepted] += 1
                if proposals[accepted][root - 1] != text[root + 1 + accepted]:
                    break
                agreed[accepted] += 1
                accepted += 1
            steps, root = steps + 1, root + accepted + 1
    by_position = [a / max(r, 1) for a, r in zip(agreed, reached, strict=True)]
    return {
        "gamma": gamma,
        "steps": steps,
        "accepted_len": 1 + sum(agreed) / steps,
        "by_position": by_position,
    }


def export_head(head: Eagle3Head, target: Qwen3ForCausalLM, tokenizer: Path, folder: Path, card: str) -> None:
    """Writes the folder that SGLang's `--speculative-algorithm EAGLE3` loads: bf16 weights and a config."""
    config = target.config
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        name: weight.to("cpu", torch.bfloat16).contiguous() for name, weight in head.state_dict().items()
    }
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    content = {
        "architectures": ["LlamaForCausalLMEagle3"],
        "model_type": "llama",
        **{name: getattr(config, name) for name in SAME},
        "bos_token_id": None,
        "num_hidden_layers": 1,
        "draft_vocab_size": config.vocab_size,
        "rope_theta": config.rope_parameters["rope_theta"],
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    for file in tokenizer.glob("*token*"):
        shutil.copyfile(file, folder / file.name)
    (folder / "README.md").write_text(card, encoding="utf-8")


def card(trainer: Trainer) -> str:
    """What the head is, and where to see how well it guesses."""
    return (
        "---\nlicense: apache-2.0\n---\n\n# Embedded pair: EAGLE3 head of the target\n\n"
        "A baseline to compare with. One layer over the target's hidden states, trained on its own outputs "
        f"over {STEPS} steps.\n\n"
        f"* {trainer.tokens:,} tokens in {trainer.step:,} steps, {trainer.seconds / 60:.0f} minutes; "
        f"{OWN_TEXT_SHARE:.0%} of the text is the target's own\n"
        f"* how well it guesses, counted without a server: `{REFERENCE}`; in SGLang: docs/results.md\n"
        "* again: `python -m sglang_mirror.train.eagle3_recipe`\n"
    )


def main() -> None:
    """Prepare, train, measure, write; a stage that is done is skipped."""
    parser = arguments(__doc__, gets="eagle3", minutes=60.0)
    parser.add_argument("--tokens", type=int, help="or its tokens, where that is sooner")
    args = parser.parse_args()
    device = begin(args)
    target = start_model(args.models, "target", target_config()).to(device).eval()
    folder = args.models / "eagle3"
    if not args.measure:
        prepare(args.work, args.models)
        budget = Budget(tokens=args.tokens, seconds=args.minutes * 60)
        trainer = train_head(args.work, target, budget, tokens_per_step=args.tokens_per_step)
        assert isinstance(trainer.model, Eagle3Head)
        export_head(trainer.model, target, args.models / "target", folder, card(trainer))
    keep_measured(folder, measured(folder, target, args.data))


if __name__ == "__main__":
    main()
