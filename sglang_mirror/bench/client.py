"""Completions from a server, timed at the client; several at once if asked."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx

REQUEST_TIMEOUT_S = 120.0


@functools.cache
def http() -> httpx.Client:
    """The client of all threads: to make one takes 20 ms, and they would count as the server's.

    No connection outlives its request: a server may close an idle one just as it is used again.
    """
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    return httpx.Client(limits=limits, timeout=REQUEST_TIMEOUT_S)


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer of `/generate`.

    Attributes:
        text: what was generated.
        num_tokens: how many tokens that is.
        seconds: from request to answer.
        meta: SGLang's `meta_info`.
        token_ids: the tokens generated.
    """

    text: str
    num_tokens: int
    seconds: float
    meta: dict[str, Any]
    token_ids: tuple[int, ...] = ()


def payload(prompt: str, *, num_tokens: int, temperature: float = 0.0, **sampling: Any) -> dict[str, Any]:
    """The body of a `/generate` request."""
    return {
        "text": prompt,
        "sampling_params": {"max_new_tokens": num_tokens, "temperature": temperature, **sampling},
    }


def complete(url: str, body: dict[str, Any]) -> Completion:
    """One completion.

    Raises:
        httpx.HTTPError: the server refused or did not answer in time.
    """
    began = time.perf_counter()
    answer = http().post(f"{url}/generate", json=body)
    seconds = time.perf_counter() - began
    answer.raise_for_status()
    content = answer.json()
    meta = content["meta_info"]
    token_ids = tuple(content.get("output_ids", ()))
    return Completion(content["text"], meta["completion_tokens"], seconds, meta, token_ids)


def complete_all(url: str, bodies: Sequence[dict[str, Any]], *, concurrency: int = 1) -> list[Completion]:
    """All completions, `concurrency` at a time, in the order of `bodies`."""
    with ThreadPoolExecutor(concurrency) as pool:
        return list(pool.map(lambda body: complete(url, body), bodies))


def stream(url: str, body: dict[str, Any]) -> Generator[str]:
    """The pieces of one completion's text as they come."""
    seen = 0
    with http().stream("POST", f"{url}/generate", json={**body, "stream": True}) as answer:
        answer.raise_for_status()
        for line in answer.iter_lines():
            data = line.removeprefix("data: ")
            if not line.startswith("data: ") or data == "[DONE]":
                continue
            text = json.loads(data)["text"]  # SGLang sends the whole text so far
            yield text[seen:]
            seen = len(text)
