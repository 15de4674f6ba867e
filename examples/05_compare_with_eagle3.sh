#!/bin/sh
# Mirror, EAGLE3, SGLang's own two-model speculation and plain decoding side by side, and the page that shows it.
# Here with the embedded pair, in its own size; for yours give --target, --draft and --eagle3, and a --workload.
#
#     sh examples/05_compare_with_eagle3.sh [OPTIONS of `sglang-mirror bench run`]       (after `make install`, with .venv/bin on the PATH)
set -eu
sglang-mirror bench run --arms plain standalone eagle3 mirror --questions 4 --tokens 64 --timeline --json out/compare.json "$@"
sglang-mirror bench report out/compare.json --markdown out/compare.md
