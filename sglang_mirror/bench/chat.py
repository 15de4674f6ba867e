"""Questions to a server: turn after turn, in the model's own chat form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from sglang_mirror.bench.client import Completion, complete, payload
from sglang_mirror.bench.workload import Question


@dataclass(frozen=True, slots=True)
class Answer:
    """What one question was answered.

    Attributes:
        completions: one a turn.
    """

    completions: tuple[Completion, ...]

    @property
    def num_tokens(self) -> int:
        return sum(completion.num_tokens for completion in self.completions)

    @property
    def seconds(self) -> float:
        return sum(completion.seconds for completion in self.completions)

    @property
    def token_ids(self) -> tuple[int, ...]:
        return tuple(token for completion in self.completions for token in completion.token_ids)


class Asker:
    """Asks questions of one target.

    Args:
        target: the folder of its tokenizer, whose chat template puts a conversation into words. A model
            without one gets the turns as paragraphs.
        num_tokens: most new tokens in a turn.
        temperature: of sampling.
    """

    def __init__(self, target: Path, *, num_tokens: int, temperature: float = 0.0) -> None:
        self._tokenizer: Any = AutoTokenizer.from_pretrained(target)
        self._num_tokens, self._temperature = num_tokens, temperature

    def ask(self, url: str, question: Question) -> Answer:
        """One question, turn after turn.

        Raises:
            httpx.HTTPError: the server refused or did not answer in time.
        """
        found: list[Completion] = []
        for turn in range(len(question.turns)):
            text = self._text(question, [completion.text for completion in found], turn)
            body = payload(text, num_tokens=self._num_tokens, temperature=self._temperature)
            found.append(complete(url, body))
        return Answer(tuple(found))

    def _text(self, question: Question, answers: Sequence[str], turn: int) -> str:
        if not question.is_chat:
            return question.turns[turn]
        messages = []
        for asked, answered in zip(question.turns, answers, strict=False):
            messages.append({"role": "user", "content": asked})
            messages.append({"role": "assistant", "content": answered})
        messages.append({"role": "user", "content": question.turns[turn]})
        if self._tokenizer.chat_template is None:
            return "\n\n".join(message["content"] for message in messages) + "\n"
        text: str = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return text
