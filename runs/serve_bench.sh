#!/usr/bin/env bash
# Serving speed under load, with percentiles; one JSON object a line.
#
#   runs/serve_bench.sh cpu    closed and open loop on the processor, beside llama.cpp's own server where GGUF names the same
#                              model for it: both with f16 weights and a dense f16 cache. Environment: MODEL (a directory or hub
#                              id; default the carried model), GGUF (f16), THREADS, CLIENTS, REQUESTS, RATE (requests a second).
#                              llama-server is built from the sources in the archive of llama-cpp-python, once: minutes.
#   runs/serve_bench.sh gpu    Llama-3.2-1B's shape with random weights and contexts of CONTEXT tokens in CAP of cache, dense and
#                              with a fifth kept: sequences at once, tokens a second; then what HTTP costs beside `dropcap bench`
#                              at a batch of 64. Needs python3 with numpy.
#
# DROPCAP and LOAD name a dropcap and crates/server/examples/load that are built already.
set -euo pipefail
cd "$(dirname "$0")"

if [[ -z ${DROPCAP:-} || -z ${LOAD:-} ]]; then
    (cd .. && cargo build --release --locked --bin dropcap && cargo build --release --locked -p dropcap-server --example load) >&2
    DROPCAP=${DROPCAP:-../target/release/dropcap} LOAD=${LOAD:-../target/release/examples/load}
fi
work=$(mktemp -d)
server=
trap 'kill $server 2>/dev/null || true; rm -rf "$work"' EXIT

wait_for() { # port: until it is ready, or the server is gone
    until curl --silent --fail --output /dev/null "http://127.0.0.1:$1/health"; do
        kill -0 "$server" 2>/dev/null || { cat "$work/log" >&2; exit 1; }
        sleep 0.2
    done
}
serve() { # arguments of dropcap serve
    "$DROPCAP" serve --port 18090 --prefix-cache 0 --no-access-log "$@" 2> "$work/log" &
    server=$!
    wait_for 18090
}
stop() { kill "$server" && wait "$server" || true; server=; }
load() { # name, port, arguments of load
    local name=$1 port=$2
    shift 2
    echo "$name: $("$LOAD" address="127.0.0.1:$port" "$@")"
}

cpu() {
    local threads=${THREADS:-$(nproc)} clients=${CLIENTS:-8} requests=${REQUESTS:-64}
    both() { # name, port
        load "$1" "$2" clients="$clients" requests="$requests"
        [[ -z ${RATE:-} ]] || load "$1" "$2" rate="$RATE" requests="$requests"
    }
    serve ${MODEL:+--model "$MODEL"} --served-name default --device cpu --dtype f16 --kv-dtype f16 --method none \
        --threads "$threads" --max-batch "$clients"
    both dropcap 18090
    stop
    [[ -n ${GGUF:-} ]] || return 0
    local llama=.llama-server/bin/llama-server
    if [[ ! -x $llama ]]; then
        python3 -m pip download --quiet --no-deps --no-binary :all: --dest .llama-server llama-cpp-python==0.3.36 >&2
        tar --extract --gzip --file .llama-server/llama_cpp_python-0.3.36.tar.gz --directory .llama-server
        cmake -S .llama-server/llama_cpp_python-0.3.36/vendor/llama.cpp -B .llama-server -DGGML_NATIVE=ON \
            -DLLAMA_CURL=OFF -DCMAKE_BUILD_TYPE=Release >&2
        cmake --build .llama-server --target llama-server --parallel "$(nproc)" >&2
    fi
    "$llama" --model "$GGUF" --alias default --threads "$threads" --parallel "$clients" --cont-batching --port 18091 \
        --ctx-size $((clients * 1024)) --no-webui > "$work/log" 2>&1 &
    server=$!
    wait_for 18091
    both llama.cpp 18091
    stop
}

gpu() {
    local context=${CONTEXT:-32000} model=$work/llama-1b method
    python3 serve/random_model.py "$model"
    local bf16=(--model "$model" --served-name default --device cuda --dtype bf16 --kv-dtype bf16)
    for method in none "simulate(keep=0.2)"; do
        # 16 GiB with weights and activations.
        serve "${bf16[@]}" --method "$method" --kv-limit "${CAP:-13GiB}" --max-batch 128
        load "$method, contexts of $context" 18090 clients=96 requests="${REQUESTS:-96}" ids="$context" max_tokens="${TOKENS:-384}"
        stop
    done
    serve "${bf16[@]}" --method none --max-batch 64
    load "HTTP, b=64" 18090 clients=64 requests=192 ids=512 max_tokens=256
    stop
    "$DROPCAP" bench --shape llama-1b --device cuda --dtype bf16 --kv-dtype bf16 -p 0 -n 128 -d 640 -b 64 --repeats 3 --json
}

"${1:-cpu}"
