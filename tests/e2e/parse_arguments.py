"""Parses command lines as `sglang.launch_server` does and says how each ended; no server is started."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys

from sglang.srt.plugins import load_plugins
from sglang.srt.server_args import prepare_server_args


def main() -> None:
    load_plugins()
    before = dict(os.environ)
    outcomes = []
    for arguments in json.loads(sys.argv[1]):
        said, status = io.StringIO(), 0
        with contextlib.redirect_stderr(said):
            try:
                prepare_server_args(arguments)
            except SystemExit as end:
                status = end.code
        outcomes.append([status, said.getvalue()])
        os.environ.clear()
        os.environ.update(before)
    sys.stdout.write("\n" + json.dumps(outcomes) + "\n")


if __name__ == "__main__":
    main()
