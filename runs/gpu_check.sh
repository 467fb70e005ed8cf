#!/usr/bin/env bash
# Every test that needs a GPU, in one call. Exits with an error if one fails, or if there is no GPU to run them on.
#
#   runs/gpu_check.sh             builds the tests and runs them
#   runs/gpu_check.sh --build     only builds them into target/gpu-check, for a machine without Rust
#   runs/gpu_check.sh --built     runs what lies in target/gpu-check
#   SANITIZE=1                    runs them under compute-sanitizer as well
set -euo pipefail
cd "$(dirname "$0")/.."
folder=target/gpu-check
mode=${1:-}

if [[ $mode != --built ]]; then
    mkdir -p "$folder"
    rm -f "$folder"/*
    cargo test --release -p dropcap-kernels -p dropcap-engine --lib --test cuda --no-run 2>&1 |
        tee /dev/stderr | sed -n 's/^ *Executable .*(\(.*\))$/\1/p' |
        while IFS= read -r binary; do
            name=$(basename "$binary")
            cp "$binary" "$folder/${name%-*}"
            strip --strip-debug "$folder/${name%-*}" || true
        done
    [[ $mode == --build ]] && exit 0
fi

nvidia-smi -L
failed=0
for binary in "$folder"/*; do
    echo "== $(basename "$binary")"
    log=$("$binary" cuda_ --nocapture --test-threads=4 2>&1) || failed=1
    echo "$log" | tail -n 60
    if grep -q SKIPPED <<<"$log"; then
        echo "a test was skipped: there is no usable GPU" >&2
        failed=1
    fi
    if [[ -n ${SANITIZE:-} ]]; then
        # A test asks for more memory than there is: a refused call is no error of ours.
        compute-sanitizer --tool memcheck --report-api-errors no --error-exitcode 9 --print-limit 5 \
            "$binary" cuda_ --test-threads=1 2>&1 | tail -n 25 || failed=1
    fi
done
exit "$failed"
