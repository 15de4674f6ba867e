"""The JSON of a run: written whole, after every part of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from sglang_mirror.bench.experiment import Plan
from sglang_mirror.bench.provenance import provenance, same_code
from sglang_mirror.errors import MirrorError

SCHEMA = 1


class Output:
    """Results as they come; a reader of the file finds an old state or the new one, never a part.

    Args:
        path: of the JSON.

    Attributes:
        results: so far; each arm once a target, workload, temperature and concurrency.
        skipped: why arms did not run, or not to the end, by name.
        timeline: of one request, if there is one.
        bench_serving: what SGLang's own client found, one entry an arm, if it was asked.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.results: list[dict[str, Any]] = []
        self.skipped: dict[str, str] = {}
        self.timeline: dict[str, Any] | None = None
        self.bench_serving: list[dict[str, Any]] = []

    @classmethod
    def resumed(cls, path: Path) -> Self:
        """An output that goes on with what a file has, if it is there. Arms that did not run are tried again.

        Raises:
            MirrorError: it cannot be read, or was measured with other code.
        """
        output = cls(path)
        if path.is_file():
            content = read_results(path)
            if not same_code(content):
                then, now = (each["commit"] for each in (content["provenance"], provenance()))
                raise MirrorError(f"--resume: {path} was measured at {then}, this is {now}; leave it out")
            output.results = content["results"]
            output.timeline, output.bench_serving = content["timeline"], content["bench_serving"]
        return output

    def add(self, results: Sequence[dict[str, Any]], skipped: Mapping[str, str]) -> None:
        """Write these as well.

        Of an arm that is in several groups the first result stays; it gets the ratios to the arms met since.
        """
        known = {identity(entry): entry for entry in self.results}
        for entry in results:
            earlier = known.get(identity(entry))
            if earlier is None:
                self.results.append(entry)
            else:
                earlier["ratios"] = {**entry["ratios"], **earlier["ratios"]}
        self.skipped.update(skipped)
        self.write()

    def has(self, plan: Plan, target: str, arms: Iterable[str]) -> bool:
        """Whether each of the arms has met each other one of them in all that the plan would ask."""
        known = {identity(entry): entry for entry in self.results}
        names = list(arms)
        entries = [
            known.get((name, target, workload.name, temperature, concurrency))
            for name in names
            for workload, temperature, concurrency in plan.cells
        ]
        return all(
            entry is not None and all(name in entry["ratios"] for name in names if name != entry["arm"])
            for entry in entries
        )

    def write(self) -> None:
        write_results(
            self._path,
            self.results,
            skipped=[{"arm": arm, "reason": reason} for arm, reason in self.skipped.items()],
            timeline=self.timeline,
            bench_serving=self.bench_serving,
        )


def write_results(path: Path, results: Sequence[dict[str, Any]], **more: Any) -> None:
    """Write results with their provenance, and further entries beside them, in one move."""
    content = {"schema": SCHEMA, "provenance": provenance(), "results": list(results), **more}
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    fresh.replace(path)


def identity(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a result is of."""
    return tuple(entry[name] for name in ("arm", "target", "workload", "temperature", "concurrency"))


def read_results(path: Path) -> dict[str, Any]:
    """A file that `Output` wrote.

    Raises:
        MirrorError: it cannot be read, or is not of that form.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            raise MirrorError(f"{path}: schema {content['schema']}; this version reads {SCHEMA}")
        content["results"][:1], content["provenance"]["date"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MirrorError(f"{path}: no results of `sglang-mirror bench run` ({error!r})") from error
    return content
