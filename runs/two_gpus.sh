#!/usr/bin/env bash
# What a second GPU brings, and what happens when a process is lost. Needs two NVIDIA GPUs, NCCL and python3.
#
#   runs/two_gpus.sh [parts]          all parts, or some of: speed losses lost
#   DROPCAP=path STEP_TIME=path       a dropcap and the example step_time of dropcap-train, built already
#   OUT=directory                     for runs and their metrics (a temporary one)
set -euo pipefail
cd "$(dirname "$0")/.."
if [[ -z ${DROPCAP:-} || -z ${STEP_TIME:-} ]]; then
    cargo build --release --locked -p dropcap-train -p dropcap-cli --example step_time --bin dropcap
fi
export DROPCAP=$(realpath "${DROPCAP:-target/release/dropcap}")
export STEP_TIME=$(realpath "${STEP_TIME:-target/release/examples/step_time}")
export OUT=${OUT:-$(mktemp -d)}
mkdir -p "$OUT"
# The wheel's NCCL is where the loader does not look.
wheel=$(python3 -c 'import nvidia.nccl as n; print(list(n.__path__)[0] + "/lib")' 2>/dev/null || true)
export LD_LIBRARY_PATH=${wheel:+$wheel:}${LD_LIBRARY_PATH:-}
exec python3 runs/two_gpus.py "$@"
