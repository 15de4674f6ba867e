"""`python -m sglang_mirror.draft`: the draft process without the rest of the command line."""

from __future__ import annotations

import argparse
import sys

from sglang_mirror.draft.command import add_arguments, run

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m sglang_mirror.draft")
    add_arguments(parser)
    sys.exit(run(parser.parse_args()))
