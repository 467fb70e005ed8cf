#!/usr/bin/env bash
# The table of training on a GPU: dropcap's steps, dense and gated, all weights and LoRA, beside PyTorch's.
# Needs python3 with PyTorch and transformers, and peft for the LoRA peer; takes about ten minutes on an H200.
#
#   runs/gpu_train_bench.sh [parts]     all parts, or some of: dense lora memory
#   STEP_TIME=path                      the example step_time of dropcap-train, built already
#   LIMIT=seconds                       that one measurement may take (240)
set -euo pipefail
cd "$(dirname "$0")/.."
if [[ -z ${STEP_TIME:-} ]]; then
    cargo build --release --locked -p dropcap-train --example step_time
    export STEP_TIME=target/release/examples/step_time
fi
cd runs
exec python3 gpu_train_peers.py "$@"
