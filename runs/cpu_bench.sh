#!/usr/bin/env bash
# Measures PyTorch, llama.cpp and dropcap side by side on the CPU and prints Markdown tables.
# Arguments go to cpu_peers.py (--rounds, --only, --gguf NAME=FILE); BENCH_THREADS says how many threads everyone gets (2). The first run installs the peers into
# runs/.venv (several GB; llama.cpp is compiled for this processor) and takes a while.
set -euo pipefail
cd "$(dirname "$0")"

if ! cmp -s cpu_requirements.txt .venv/installed.txt; then
    python3 -m venv .venv
    CMAKE_ARGS="-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF" \
        .venv/bin/pip install --no-binary llama-cpp-python -r cpu_requirements.txt >&2
    cp cpu_requirements.txt .venv/installed.txt
fi
if ! (cd .. && cargo build --release --locked --bin dropcap --target-dir target) >&2; then
    echo "dropcap could not be built: the tables will hold the peers, and dropcap only if an older build lies there" >&2
fi
exec .venv/bin/python cpu_peers.py "$@"
