"""A SGLang frontend program: gen, fork and select against the server whose URL is given."""

from __future__ import annotations

import json
import sys
from typing import Any

import sglang as sgl


@sgl.function
def describe(s: Any, code: str) -> None:
    s += code
    s += sgl.gen("body", max_tokens=24, temperature=0)
    forks = s.fork(2)
    for index, name in enumerate(("def", "class")):
        forks[index] += f"\n\n{name} "
        forks[index] += sgl.gen("next", max_tokens=12, temperature=0)
    s += forks[0]["next"] + forks[1]["next"]
    s += "\nkind = " + sgl.select("kind", choices=["list", "dict", "str"])


def main() -> None:
    sgl.set_default_backend(sgl.RuntimeEndpoint(sys.argv[1]))
    state = describe.run(code="def read_lines(path):\n")
    found = {"body": state["body"], "kind": state["kind"], "text": state.text()}
    sys.stdout.write("\n" + json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
