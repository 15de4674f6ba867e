"""With all the time it wants, the draft gives the windows, branches and hits that the oracle does."""

from __future__ import annotations

import dataclasses
import random
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_mirror.core.growth import WindowShape
from sglang_mirror.core.roots import RootMode, phase_budgets
from sglang_mirror.core.simulator import Guessers, prepare_branches, simulate
from sglang_mirror.draft.backends.scripted import ScriptedBackend, hash_script
from sglang_mirror.draft.scheduler import Limits
from tests.draft.draft_playing import Playback, Player, hello, scripted_models

VOCAB = 61


@given(
    gamma=st.integers(1, 6),
    topk=st.integers(1, 3),
    more_nodes=st.integers(0, 7),
    kappa=st.integers(0, 8),
    roots=st.sampled_from(["union", "exit", "draft", "none"]),
    budget=st.integers(0, 16),
    seed=st.integers(0, 1000),
    rows=st.integers(1, 20),
)
@settings(max_examples=60, deadline=None)
def test_scripted_draft_is_the_oracle(
    *,
    gamma: int,
    topk: int,
    more_nodes: int,
    kappa: int,
    roots: RootMode,
    budget: int,
    seed: int,
    rows: int,
) -> None:
    topk = min(topk, kappa + 1)
    nodes = gamma + 1 + (more_nodes if topk > 1 else 0)
    script = hash_script(VOCAB, order=1 + seed % 5)
    models = scripted_models(script)
    oracle_models = dataclasses.replace(models, draft=lambda prefix: script(prefix, kappa + 1))
    prompt = random.Random(seed).choices(range(VOCAB), k=1 + seed % 40)
    # It asserts, too, that what was promoted or rolled out before its commit is never computed again.
    backend = ScriptedBackend(script, vocab_size=VOCAB)
    player = Player(backend, Limits(rows=rows, rows_while_awaited=rows, prefill_rows=7))
    said = hello(gamma=gamma, topk=topk, nodes=nodes, kappa=kappa, roots=roots, budget=budget)
    player.greet(b"t", said)
    playing = Playback(player, b"t", said, models)
    playing.open(prompt)
    guessers = Guessers()
    shape = WindowShape(gamma, topk, nodes - 1)
    options = {"shape": shape, "kappa": kappa, "mode": roots, "budget": budget}
    for expected in islice(simulate(oracle_models, prompt, num_tokens=60, **options), 25):  # type: ignore[arg-type]
        committed, window = list(playing.committed), playing.window
        assert playing.step() == expected
        table = prepare_branches(oracle_models, guessers, committed, window, **options)  # type: ignore[arg-type]
        guessers.learn(window, playing.committed[len(committed) :])
        assert playing.table.branches == table.branches
        first, total = phase_budgets(roots, budget)
        wanted = [1] * (first > 0) + [2] * (total > first)
        assert set(playing.phases) <= set(wanted) and playing.phases[-1:] == wanted[-1:]


@pytest.mark.parametrize("roots", ["union", "draft", "exit", "none"])
def test_first_token_after_a_prompt_without_window(roots: RootMode) -> None:
    script = hash_script(VOCAB)
    backend = ScriptedBackend(script, vocab_size=VOCAB)
    player = Player(backend)
    player.greet(b"t", hello(roots=roots))
    assert player.settle() == 0
