"""What is asked: questions of one turn or more, from the held-out prompts or from a file."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sglang_mirror.bench.pair import held_out
from sglang_mirror.bench.prompts import read_rows
from sglang_mirror.errors import MirrorError

HELD_OUT = "heldout-code"
# Spec-Bench's six tasks by the categories in its file; the eight of MT-Bench are its conversations.
SPEC_BENCH_TASKS = {
    **{name: name for name in ("translation", "summarization", "qa", "rag")},
    "math_reasoning": "math",
    **dict.fromkeys(
        ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities"),
        "multi-turn",
    ),
}


@dataclass(frozen=True, slots=True)
class Question:
    """One conversation.

    Attributes:
        task: the kind of question, by which results are split.
        turns: what the user says, one after another.
        is_chat: whether the turns are put into the model's chat form; else the model goes on with the text.
    """

    task: str
    turns: tuple[str, ...]
    is_chat: bool


@dataclass(frozen=True, slots=True)
class Workload:
    """Questions under a name; the order is that of the source."""

    name: str
    questions: tuple[Question, ...]

    @property
    def by_task(self) -> dict[str, tuple[Question, ...]]:
        tasks = dict.fromkeys(question.task for question in self.questions)
        return {task: tuple(each for each in self.questions if each.task == task) for task in tasks}


def load_workload(source: str, per_task: int) -> Workload:
    """The first `per_task` questions of each task.

    Args:
        source: `heldout-code`, or the path of a JSONL file: a line is an object with a `prompt` (a text to go
            on with) or with `turns` and a `category`, as in Spec-Bench's question.jsonl.
        per_task: how many.

    Raises:
        MirrorError: the file cannot be read, has no questions, or a line is none; it names file and line.
    """
    if source == HELD_OUT:
        prompts = held_out(per_task)
        return Workload(source, tuple(Question("code", (prompt.text,), is_chat=False) for prompt in prompts))
    path = Path(source)
    by_task: dict[str, list[Question]] = {}
    for question in _questions(path):
        by_task.setdefault(question.task, []).append(question)
    kept = tuple(itertools.chain.from_iterable(found[:per_task] for found in by_task.values()))
    if not kept:
        raise MirrorError(f"--workload {source}: no questions in it")
    return Workload(path.parent.name if path.stem == "question" else path.stem, kept)


def _questions(path: Path) -> Iterator[Question]:
    for number, row in read_rows(path):
        try:
            yield _question(row)
        except (KeyError, TypeError, ValueError) as error:
            raise MirrorError(
                f"workload {path}, line {number}: expected an object with a 'prompt', or with 'turns' and a "
                f"'category' ({error!r})"
            ) from error


def _question(row: Mapping[str, Any]) -> Question:
    if "turns" not in row:
        return Question(str(row.get("task", "prompts")), (_text(row["prompt"]),), is_chat=False)
    turns = tuple(_text(turn) for turn in row["turns"])
    if not turns:
        raise ValueError("no turns")
    category = str(row["category"])
    return Question(SPEC_BENCH_TASKS.get(category, category), turns, is_chat=True)


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError(f"expected a text, found {value!r}")
    return value
