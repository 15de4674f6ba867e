#!/bin/sh
# A draft that is no child of the server: on another machine, or shared by several servers.
# Here both are on this one, with the embedded pair, over TCP with keys; on two, copy the folder of keys to the other.
#
#     sh examples/04_remote_draft.sh       (after `make install`, with .venv/bin on the PATH)
set -eu
cd "$(dirname "$0")"
place=$(mktemp -d)
draft='' server=''
# The keys are secret: they go when we go, however we end.
trap 'kill $draft $server 2>/dev/null || true; rm -rf "$place"' EXIT
trap 'exit 1' INT TERM
sglang-mirror keys "$place/keys"
OMP_NUM_THREADS=1 sglang-mirror draft --model models/draft --endpoint tcp://127.0.0.1:7000 --curve-dir "$place/keys" &
draft=$!
OMP_NUM_THREADS=1 python -m sglang.launch_server --model-path models/target --port 30000 \
    --device cpu --attention-backend torch_native --dtype float32 --max-total-tokens 32768 \
    --speculative-algorithm mirror --speculative-num-steps 8 --mirror-root-budget 16 \
    --mirror-draft-endpoint tcp://127.0.0.1:7000 --mirror-curve-dir "$place/keys" &
server=$!
wait $server
