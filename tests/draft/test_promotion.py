"""KV that was gathered, promoted and grown gives the logits of a computation from scratch."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from sglang_mirror.core.growth import WindowShape
from sglang_mirror.core.roots import Candidates
from sglang_mirror.core.simulator import Models, simulate
from sglang_mirror.draft.backends.load import load_torch
from sglang_mirror.draft.tree import Node
from tests.draft.draft_playing import Playback, Player, hello
from tests.draft.tiny import make


class Plain:
    """A checkpoint's own forward over a whole text, remembered."""

    def __init__(self, folder: Path) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        self.known: dict[tuple[int, ...], torch.Tensor] = {}

    def logprobs(self, prefix: Sequence[int]) -> torch.Tensor:
        key = tuple(prefix)
        if key not in self.known:
            with torch.inference_mode():
                logits = self.model(torch.tensor([key]), use_cache=False).logits[0, -1]
            self.known[key] = logits.log_softmax(-1)
        return self.known[key]

    def candidates(self, prefix: Sequence[int], count: int) -> Candidates:
        top = self.logprobs(prefix).topk(count)
        return Candidates(tuple(top.indices.tolist()), tuple(top.values.tolist()))


@pytest.mark.parametrize(
    ("architecture", "roots"),
    [("qwen3", "union"), ("qwen3", "exit"), ("qwen3", "none"), ("mistral", "draft"), ("gemma2", "union")],
)
@pytest.mark.parametrize("topk", [1, 3])
def test_real_models_follow_the_oracle(architecture: str, roots: str, topk: int, tmp_path: Path) -> None:
    folder = make(architecture, tmp_path)
    plain = Plain(folder)
    backend = load_torch(str(folder), device="cpu", dtype="float32", threads=1)
    gamma, kappa, budget = 4, 5, 9
    nodes = gamma + 1 if topk == 1 else 9
    picker = random.Random(1)
    picks = [picker.choices(range(4), weights=(6, 2, 1, 1))[0] for _ in range(512)]

    models = Models(
        target=lambda prefix: plain.candidates(prefix, 4).tokens[picks[len(prefix)]],
        draft=lambda prefix: plain.candidates(prefix, kappa + 1),
        exit=lambda prefix: plain.candidates(prefix[-12:], kappa + topk),
    )
    player = Player(backend)
    said = hello(gamma=gamma, topk=topk, nodes=nodes, kappa=kappa, roots=roots, budget=budget)  # type: ignore[arg-type]
    player.greet(b"t", said)
    playing = Playback(player, b"t", said, models)
    prompt = picker.choices(range(90), k=60)
    playing.open(prompt)
    seen = set()
    shape = WindowShape(gamma, topk, nodes - 1)
    steps = simulate(models, prompt, num_tokens=200, shape=shape, kappa=kappa, mode=roots, budget=budget)  # type: ignore[arg-type]
    for expected in islice(steps, 40):
        assert playing.step() == expected
        seen.add((expected.num_accepted, expected.source is not None))
        session = player.service._targets[b"t"].sessions[0]
        rollout = session._rollout
        assert rollout is not None
        for window in (rollout.window, *(branch.growing for branch in rollout.branches.values())):
            for node in window.nodes:
                if node.candidates is not None:
                    check(node.candidates, plain.logprobs([*playing.committed, *below_root(node)]))
    lengths = {accepted for accepted, _ in seen}
    assert lengths == set(range(gamma + 1)) if topk == 1 else len(lengths) > 2
    if roots != "none":
        assert any(hit for _, hit in seen)


def below_root(node: Node) -> list[int]:
    tokens: list[int] = []
    while node.parent is not None:
        tokens.insert(0, node.token)
        node = node.parent
    return tokens


def check(found: Candidates, correct: torch.Tensor) -> None:
    assert found.tokens[0] == int(correct.argmax())
    assert torch.allclose(torch.tensor(found.logprobs), correct[list(found.tokens)], atol=1e-4)
