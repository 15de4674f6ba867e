"""The split: nothing held out is trained on, and only permissive packages are read."""

from __future__ import annotations

from email.message import Message
from importlib import metadata

import pytest

from sglang_mirror.train import corpus
from sglang_mirror.train.corpus import Source, find_sources, is_heldout, licence_of

BODY = "\n".join(f"def function_{i}(argument):\n    return argument + helper(argument)" for i in "abcdefghij")


def source(name: str, text: str, package: str = "CPython") -> Source:
    return Source(name=name, package=package, version="1", licence="MIT", text=text)


class FakeDistribution(metadata.Distribution):
    """A distribution that is nothing but its metadata."""

    def __init__(self, **fields: str) -> None:
        self.message = Message()
        for key, value in fields.items():
            self.message[key.replace("_", "-")] = value

    def read_text(self, filename: str) -> str | None:
        return self.message.as_string() if filename == "METADATA" else None

    def locate_file(self, path: object) -> object:  # type: ignore[override]
        raise NotImplementedError(path)


@pytest.mark.parametrize(
    ("fields", "allowed"),
    [
        ({"License_Expression": "MIT"}, True),
        ({"License_Expression": "Apache-2.0 OR BSD-2-Clause"}, True),
        ({"Classifier": "License :: OSI Approved :: BSD License", "License": "Copyright (c) Someone"}, True),
        ({"License": "Apache 2.0 License"}, True),
        ({"License_Expression": "MPL-2.0 AND MIT"}, False),
        ({"Classifier": "License :: Other/Proprietary License"}, False),
        ({"License_Expression": "LGPL-3.0-only"}, False),
        ({}, False),
    ],
)
def test_only_permissive_licences_are_read(fields: dict[str, str], allowed: bool) -> None:
    named = licence_of(FakeDistribution(Metadata_Version="2.4", Name="x", Version="1", **fields))
    assert (named is not None) == allowed


def test_split_is_disjoint_and_drops_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"Lib/module_{i}.py" for i in range(40)]
    held_name = next(name for name in names if is_heldout(name))
    library = [source(name, BODY.replace("function", f"routine_{i}")) for i, name in enumerate(names)]
    held_text = next(s.text for s in library if s.name == held_name)
    copies = [source("pkg/copy.py", held_text, "pkg"), source("pkg/near.py", held_text + "\nx = 1\n", "pkg")]
    monkeypatch.setattr(corpus, "PACKAGES", ("pkg",))
    monkeypatch.setattr(corpus, "cpython_sources", lambda: iter(library))
    monkeypatch.setattr(corpus, "package_sources", lambda _: iter(copies))
    train, heldout = find_sources()
    assert {s.name for s in heldout} == {name for name in names if is_heldout(name)}
    assert {s.name for s in train} == {name for name in names if not is_heldout(name)}


def test_heldout_is_a_rule_on_the_path() -> None:
    assert not is_heldout("numpy/shutil.py")
    held = [name for name in ("Lib/shutil.py", "Lib/pathlib.py", "Lib/argparse.py") if is_heldout(name)]
    assert held == ["Lib/shutil.py", "Lib/pathlib.py"]


def test_generated_and_tabular_files_are_left_out() -> None:
    assert corpus.is_useful(BODY)
    assert not corpus.is_useful("# This file was automatically generated\n" + BODY)
    assert not corpus.is_useful("\n".join("1, 2, 3, 4, 5, 6, 7, 8" for _ in range(50)))
    assert not corpus.is_useful(BODY + "\nx = '" + "y" * 500 + "'\n")
