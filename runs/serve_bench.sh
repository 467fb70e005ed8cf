#!/usr/bin/env bash
# Serving speed in closed and open loop, with percentiles; beside llama.cpp's own server in the same run where GGUF names the
# same model for it. Environment: MODEL (a directory or hub id; default the carried model), GGUF (f16), THREADS, CLIENTS,
# REQUESTS, RATE, DROPCAP (a binary that is built already), FLAGS (more flags of `dropcap serve`).
#
# llama-server is built from the sources in the archive of llama-cpp-python, which takes minutes once.
set -euo pipefail
cd "$(dirname "$0")"

threads=${THREADS:-$(nproc)} clients=${CLIENTS:-8} requests=${REQUESTS:-64}
if [[ -z ${DROPCAP:-} ]]; then
    (cd .. && cargo build --release --locked --bin dropcap) >&2
    DROPCAP=../target/release/dropcap
fi
work=$(mktemp -d)
server=
trap 'kill $server 2>/dev/null || true; rm -rf "$work"' EXIT

load() { # url, name
    echo "$2: $(python3 serve/load.py "$1" --clients "$clients" --requests "$requests" --model "${NAME:-default}")"
    if [[ -n ${RATE:-} ]]; then
        echo "$2: $(python3 serve/load.py "$1" --rate "$RATE" --requests "$requests" --model "${NAME:-default}")"
    fi
}
stop() { kill "$server" && wait "$server" || true; server=; }

"$DROPCAP" serve ${MODEL:+--model "$MODEL"} --served-name "${NAME:-default}" --dtype f16 --kv-dtype f16 --method none \
    --threads "$threads" --port 18090 --max-batch "$clients" --prefix-cache 0 --no-access-log ${FLAGS:-} 2> "$work/log" &
server=$!
until curl --silent --fail --output /dev/null http://127.0.0.1:18090/health; do kill -0 $server || { cat "$work/log" >&2; exit 1; }; sleep 0.2; done
load http://127.0.0.1:18090 dropcap
stop

if [[ -n ${GGUF:-} ]]; then
    llama=.llama-server/bin/llama-server
    if [[ ! -x $llama ]]; then
        python3 -m pip download --quiet --no-deps --no-binary :all: --dest .llama-server llama-cpp-python==0.3.36 >&2
        tar --extract --gzip --file .llama-server/llama_cpp_python-0.3.36.tar.gz --directory .llama-server
        cmake -S .llama-server/llama_cpp_python-0.3.36/vendor/llama.cpp -B .llama-server -DGGML_NATIVE=ON \
            -DLLAMA_CURL=OFF -DCMAKE_BUILD_TYPE=Release >&2
        cmake --build .llama-server --target llama-server --parallel "$(nproc)" >&2
    fi
    "$llama" --model "$GGUF" --threads "$threads" --parallel "$clients" --cont-batching --port 18091 \
        --ctx-size $((clients * 1024)) --no-webui > "$work/llama.log" 2>&1 &
    server=$!
    until curl --silent --fail --output /dev/null http://127.0.0.1:18091/health; do kill -0 $server || { cat "$work/llama.log" >&2; exit 1; }; sleep 0.2; done
    load http://127.0.0.1:18091 llama.cpp
    stop
fi
