#!/usr/bin/env bash
# Serving speed under load, with percentiles: one JSON object a line, and a summary.
#
#   runs/serve_bench.sh cpu    closed loop, and open where RATE (requests a second) is given, on the processor; beside llama.cpp's
#                              own server where GGUF names the same model for it: both with f16 weights and a dense f16 cache, in
#                              turns, ROUNDS of them, because a machine is not equally fast at all times. Environment: MODEL (a
#                              directory or hub id; default the carried model), GGUF (f16), THREADS, CLIENTS, REQUESTS, WORDS,
#                              TOKENS, LLAMA (a llama-server that is built already; otherwise it is built once, from the
#                              sources in the archive of llama-cpp-python: minutes).
#   runs/serve_bench.sh crowd  1, 8, 64 and 256 clients with prompts of CONTEXT tokens for the carried model in CAP of cache: none may be lost.
#   runs/serve_bench.sh gpu    Llama-3.2-1B's shape with random weights and contexts of CONTEXT tokens in CAP of cache, dense and
#                              with a fifth kept: sequences at once, tokens a second; then what HTTP costs beside `dropcap bench`
#                              at a batch of 64. About six minutes on one H200 and 3 GiB of disk; nothing is built or downloaded
#                              where DROPCAP and LOAD are given.
#
# DROPCAP and LOAD name a dropcap and crates/server/examples/load that are built already. Needs python3.
set -euo pipefail
cd "$(dirname "$0")"

if [[ -z ${DROPCAP:-} || -z ${LOAD:-} ]]; then
    (cd .. && cargo build --release --locked --bin dropcap && cargo build --release --locked -p dropcap-server --example load) >&2
    export DROPCAP=${DROPCAP:-../target/release/dropcap} LOAD=${LOAD:-../target/release/examples/load}
fi
if [[ ${1:-cpu} == cpu && -n ${GGUF:-} && -z ${LLAMA:-} ]]; then
    export LLAMA=.llama-server/bin/llama-server
    if [[ ! -x $LLAMA ]]; then
        python3 -m pip download --quiet --no-deps --no-binary :all: --dest .llama-server llama-cpp-python==0.3.36 >&2
        tar --extract --gzip --file .llama-server/llama_cpp_python-0.3.36.tar.gz --directory .llama-server
        cmake -S .llama-server/llama_cpp_python-0.3.36/vendor/llama.cpp -B .llama-server -DGGML_NATIVE=ON \
            -DLLAMA_CURL=OFF -DCMAKE_BUILD_TYPE=Release >&2
        cmake --build .llama-server --target llama-server --parallel "$(nproc)" >&2
    fi
fi
exec python3 serve/bench.py "${1:-cpu}"
