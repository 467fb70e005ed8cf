#!/usr/bin/env bash
# Measures training steps on the CPU: the paper's public code, PyTorch and dropcap side by side; prints Markdown tables.
# Arguments go to train_peers.py (--rounds, --shapes, --only, --public-code). The first run installs PyTorch into
# runs/.venv, unless cpu_bench.sh has, and clones the public code into runs/out.
set -euo pipefail
cd "$(dirname "$0")"

if ! .venv/bin/python -c "import numpy, torch, transformers" 2>/dev/null; then
    python3 -m venv .venv
    grep -E '^(numpy|torch|transformers)==' cpu_requirements.txt > .venv/train.txt
    .venv/bin/pip install -r .venv/train.txt >&2
fi
if ! (cd .. && cargo build --release --locked -p dropcap-train --example step_time --target-dir target) >&2; then
    echo "dropcap could not be built: the tables will hold the peers, and dropcap only if an older build lies there" >&2
fi
exec .venv/bin/python train_peers.py "$@"
