"""An SGLang frontend program on a mirror server: gen, fork and select, as on any other.

make serve
python examples/02_frontend_program.py [URL]
"""

from __future__ import annotations

import json
import sys
from typing import Any

import sglang as sgl

URL = "http://127.0.0.1:30000"


@sgl.function
def describe(s: Any, code: str) -> None:
    """Goes on with some code, then in two ways at once, then chooses."""
    s += code
    s += sgl.gen("body", max_tokens=24, temperature=0)
    forks = s.fork(2)
    for index, name in enumerate(("def", "class")):
        forks[index] += f"\n\n{name} "
        forks[index] += sgl.gen("next", max_tokens=12, temperature=0)
    s += forks[0]["next"] + forks[1]["next"]
    s += "\nkind = " + sgl.select("kind", choices=["list", "dict", "str"])


def main() -> None:
    """Run it; the last line is what it found, as JSON."""
    sgl.set_default_backend(sgl.RuntimeEndpoint(sys.argv[1] if len(sys.argv) > 1 else URL))
    state = describe.run(code="def read_lines(path):\n")
    found = {"body": state["body"], "kind": state["kind"], "text": state.text()}
    sys.stdout.write(f"{found['text']}\n\n{json.dumps(found)}\n")


if __name__ == "__main__":
    main()
