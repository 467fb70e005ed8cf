#!/usr/bin/env bash
# The table of the GPU: dropcap beside PyTorch and the paper's public code, against the card's own read bandwidth.
# Needs python3 with PyTorch; takes about eight minutes on an H100.
#
#   runs/gpu_bench.sh [parts]          all parts, or some of: decode bandwidth blocks pruned batch public prefill start
#   DROPCAP=path                       a dropcap that is built already
#   PUBLIC=path                        a checkout of the public code at its commit; cloned where none is given
#   REPEATS, CHUNK                     timed repeats (3), prompt tokens of a step (2048)
set -euo pipefail
cd "$(dirname "$0")/.."
if [[ -z ${DROPCAP:-} ]]; then
    cargo build --release -p dropcap-cli
    DROPCAP=target/release/dropcap
fi
export DROPCAP
cd runs
exec python3 gpu_peers.py "$@"
