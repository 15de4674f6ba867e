"""The last forward, and which of its tokens SGLang has not taken into its requests yet.

Under SGLang's overlap schedule a forward is launched while the results of the one before it still wait to be
taken in, so a request's own record of its output is one forward behind. Without that schedule it never is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from sglang_mirror.core.growth import WindowShape
from sglang_mirror.engine.step import committed_tokens

Tokens = list[list[int]]


class Launched:
    """A forward that was launched.

    Args:
        reqs: SGLang's requests.
        fetch: waits for the device; the tokens that it gave to each.
        unread: of each request, those of the forward before that it lacked when this one was launched.
    """

    def __init__(
        self, reqs: Sequence[Any], fetch: Callable[[], Tokens], unread: Sequence[Sequence[int]] = ()
    ) -> None:
        self.reqs = tuple(reqs)
        self._fetch = fetch
        behind = unread or [()] * len(self.reqs)
        self._places = {req.rid: place for place, req in enumerate(self.reqs)}
        self._lengths = [
            len(req.output_ids) + len(tokens) for req, tokens in zip(self.reqs, behind, strict=True)
        ]

    @classmethod
    def prefill(cls, reqs: Sequence[Any], result: Any) -> Launched:
        """A prefill: one token each, which means nothing where a prompt's next chunk will follow."""
        ids = result.next_token_ids  # SGLang will put a copy on the host in its place
        return cls(reqs, lambda: [[token] for token in ids.tolist()])

    @classmethod
    def decode(
        cls, reqs: Sequence[Any], unread: Sequence[Sequence[int]], result: Any, shape: WindowShape
    ) -> Launched:
        """A verification: what each request commits."""
        fetch = functools.partial(committed_tokens, result.next_token_ids, result.accept_lens, shape)
        return cls(reqs, fetch, unread)

    @functools.cached_property
    def tokens(self) -> Tokens:
        """What the forward gave to each request; waits for it."""
        return self._fetch()

    @property
    def kept(self) -> Tokens:
        """The same; none for a request whose end SGLang had found before: it was verified for nobody."""
        pairs = zip(self.reqs, self.tokens, strict=True)
        return [[] if req.finished() and not self.taken_in(req.rid) else tokens for req, tokens in pairs]

    def taken_in(self, rid: str) -> bool:
        """Whether SGLang has taken in what this forward gave to a request."""
        place = self._places.get(rid)
        return place is not None and len(self.reqs[place].output_ids) > self._lengths[place]

    def unread(self, req: Any) -> list[int]:
        """Tokens of this forward that are not yet in `req.output_ids`; may wait for it."""
        place = self._places.get(req.rid)
        return [] if place is None or self.taken_in(req.rid) else self.tokens[place]
