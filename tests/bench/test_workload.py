"""Questions from files, and what is said of a file that is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sglang_mirror.bench.workload import HELD_OUT, Question, load_workload
from sglang_mirror.errors import MirrorError


def written(folder: Path, *lines: object, name: str = "some.jsonl") -> str:
    path = folder / name
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return str(path)


def test_held_out_prompts_are_texts_to_go_on_with() -> None:
    found = load_workload(HELD_OUT, 3)
    assert found.name == "heldout-code"
    assert len(found.questions) == 3
    assert not any(question.is_chat for question in found.questions)


def test_spec_bench_has_six_tasks(tmp_path: Path) -> None:
    categories = ["writing", "stem", "translation", "summarization", "qa", "math_reasoning", "rag", "qa"]
    rows = [{"question_id": 1, "category": name, "turns": [f"{name}?"]} for name in categories]
    (tmp_path / "spec_bench").mkdir()
    found = load_workload(written(tmp_path / "spec_bench", *rows, name="question.jsonl"), 1)
    assert found.name == "spec_bench"
    assert set(found.by_task) == {"multi-turn", "translation", "summarization", "qa", "math", "rag"}
    assert all(len(questions) == 1 for questions in found.by_task.values())
    assert found.questions[0] == Question("multi-turn", ("writing?",), is_chat=True)


def test_prompts_of_any_file(tmp_path: Path) -> None:
    found = load_workload(written(tmp_path, {"prompt": "a"}, "", {"prompt": "b"}), 9)
    assert [question.turns for question in found.questions] == [("a",), ("b",)]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2: no JSON"),
        ("[]", "line 2: expected an object"),
        ({"text": "a"}, "line 2: expected an object with a 'prompt'"),
        ({"prompt": ""}, "line 2.*expected a text"),
        ({"turns": [], "category": "qa"}, "line 2.*no turns"),
        ({"turns": ["a"]}, "line 2.*category"),
        ({"turns": [3], "category": "qa"}, "line 2.*found 3"),
    ],
)
def test_a_line_that_is_no_question(tmp_path: Path, line: object, said: str) -> None:
    with pytest.raises(MirrorError, match=said):
        load_workload(written(tmp_path, {"prompt": "a"}, line), 9)


def test_files_without_questions(tmp_path: Path) -> None:
    with pytest.raises(MirrorError, match="no questions"):
        load_workload(written(tmp_path), 1)
    with pytest.raises(MirrorError, match=r"nowhere\.jsonl"):
        load_workload(str(tmp_path / "nowhere.jsonl"), 1)
