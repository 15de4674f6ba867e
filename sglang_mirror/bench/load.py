"""Clients that ask a server without a pause, and know what it must say."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx

from sglang_mirror.bench.client import complete, complete_all, payload, stream
from sglang_mirror.bench.pair import held_out
from sglang_mirror.bench.server import Server

MOST_TOKENS = 96
NUM_SHORT, NUM_LONG = 24, 4
# Of the requests; the rest are greedy.
SAMPLED, LEFT = 0.2, 0.1

# Plain decoding's tokens of each prompt, at most `MOST_TOKENS`.
Expected = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """How long, by how many clients, with which faults of the draft (names of `soak.FAULTS`)."""

    minutes: float
    clients: int = 8
    seed: int = 0
    faults: Sequence[str] = ()


class Span:
    """A span of time that can be cut short: whoever is told to end does not wait for its threads' minutes."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self._begun, self._cut = seconds, time.monotonic(), threading.Event()

    @property
    def passed_s(self) -> float:
        return time.monotonic() - self._begun

    @property
    def over(self) -> bool:
        return self._cut.is_set() or self.passed_s >= self.seconds

    def wait(self, seconds: float) -> None:
        """So long, or to the end."""
        self._cut.wait(max(0.0, min(seconds, self.seconds - self.passed_s)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cut.set()


def expected_of(plain: Server) -> Expected:
    """What plain decoding says to each prompt, one at a time."""
    prompts = [prompt.text for prompt in (*held_out(NUM_SHORT), *held_out(NUM_LONG, long=True))]
    bodies = [payload(prompt, num_tokens=MOST_TOKENS) for prompt in prompts]
    answers = complete_all(plain.url, bodies)
    return {prompt: answer.token_ids for prompt, answer in zip(prompts, answers, strict=True)}


class Load:
    """Clients that ask for a span of time.

    Attributes:
        counts: of `requests`, and of these `lost` ones (no answer, or not in time), those with `wrong_text`,
            `sampled` ones and those whose client `left`.
    """

    def __init__(self, url: str, expected: Expected, plan: LoadPlan) -> None:
        self._url, self._expected, self._plan = url, expected, plan
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter(dict.fromkeys(("requests", "lost", "wrong_text"), 0))

    def run(self, span: Span) -> None:
        """Ask until it is over."""
        with ThreadPoolExecutor(self._plan.clients) as pool, span:
            clients = [pool.submit(self._client, number, span) for number in range(self._plan.clients)]
            for client in clients:
                client.result()

    def _client(self, number: int, span: Span) -> None:
        rng, known = random.Random(f"{self._plan.seed}-{number}"), list(self._expected.items())
        while not span.over:
            prompt, tokens = rng.choice(known)
            body = payload(prompt, num_tokens=rng.randint(1, MOST_TOKENS))
            draw = rng.random()
            try:
                if draw < LEFT:
                    found = self._leave(body)
                elif draw < LEFT + SAMPLED:
                    body["sampling_params"]["temperature"] = rng.choice((0.3, 1.0))
                    found = self._sampled(body)
                else:
                    found = self._greedy(body, tokens)
            except httpx.HTTPError:
                found = ["lost"]
            with self._lock:
                self.counts.update(["requests", *found])

    def _leave(self, body: dict[str, Any]) -> list[str]:
        with contextlib.closing(stream(self._url, body)) as pieces:
            next(pieces, None)
        return ["left"]

    def _sampled(self, body: dict[str, Any]) -> list[str]:
        complete(self._url, body)
        return ["sampled"]

    def _greedy(self, body: dict[str, Any], tokens: tuple[int, ...]) -> list[str]:
        said = complete(self._url, body).token_ids
        return [] if said == tokens[: body["sampling_params"]["max_new_tokens"]] else ["wrong_text"]
