#!/usr/bin/env bash
# Every test that needs a GPU, then a selection of them under the four tools of compute-sanitizer. Exits with an error if
# one fails, or if there is no GPU to run them on.
#
#   runs/gpu_check.sh                   builds the tests and runs all of this
#   runs/gpu_check.sh --build           only builds them, into target/gpu-check
#   runs/gpu_check.sh --built [FOLDER]  runs what lies in FOLDER (target/gpu-check)
#
# TOOLS="memcheck racecheck" names other tools, TOOLS= none. The selection is made for three minutes on an H200 (LOG.md).
#
# For a machine without Rust: build here, and bring this script, the folder target/gpu-check and the folder tests/golden,
# at the same places below one directory. Needed there are a driver, NVRTC, cuBLASLt and compute-sanitizer.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=target/gpu-check
tools=${TOOLS-memcheck racecheck synccheck initcheck}

build() {
    mkdir -p "$folder"
    rm -f "$folder"/*
    # As tests are built: with overflow checks and debug assertions.
    {
        cargo test -p dropcap-kernels --lib --no-run
        cargo test -p dropcap-engine --test cuda --test cuda_pages --no-run
        cargo test -p dropcap-train --lib --no-run
    } 2>&1 |
        tee /dev/stderr | sed -n 's/^ *Executable .*(\(.*\))$/\1/p' |
        while IFS= read -r binary; do
            name=$(basename "$binary")
            strip -o "$folder/${name%-*}" "$binary"
        done
}

case ${1:-} in
    --build) build; exit ;;
    --built) folder=${2:-$folder} ;;
    '') build ;;
    *) sed -n 's/^# \{0,1\}//p' "$0" | sed -n 2,13p >&2; exit 2 ;;
esac

# The tests of a binary for a tool. Some take minutes under one; what those launch, shorter ones launch too.
chosen() {
    local tool=$1 binary=$2 spared=cuda_memory_that_is_not_there # the driver's refusal would count as an error of ours
    spared+='|cuda_pruned_runs_equal|cuda_batches_give|cuda_frequencies_follow|cuda_the_first_query_that_refuses'
    spared+='|cuda_votes_do_not_depend|cuda_products_agree_with'
    if [[ $tool == racecheck || $tool == initcheck ]]; then
        [[ $binary == *dropcap_kernels ]] || return 0
        spared+='|cuda_prefill_(agrees|is)|cuda_one_sequence_may|cuda_decode_agrees|cuda_reclaim_frees|cuda_lanes_(that|grow)'
        spared+='|cuda_a_recorded_step_grows|cuda_products_of_a_norm|cuda_gated_products'
    fi
    if [[ $tool == racecheck ]]; then
        spared+='|cuda_training_attends_with_(wide_heads_over|grouped|a_gate|one_gate)'
        # It reports a kernel of cuBLASLt's, and votes, which look at a minimum that others lower meanwhile only to save work.
        spared+='|cuda_tuned_and_recorded_products|cuda_votes_of_long_prompts'
    fi
    "$binary" --list | sed -n 's/: test$//p' | grep -E '(^|::)cuda_[^:]*$' | grep -vE "$spared"
}

# One line: whether the tool found nothing in a test that passed, and how long it took.
try_tool() {
    local tool=$1 binary=$2 test=$3 start=$SECONDS verdict=clean log
    log=$(timeout 170 compute-sanitizer --tool "$tool" --error-exitcode 9 --print-limit 5 \
        "$binary" --exact "$test" --test-threads=1 2>&1) || verdict=FAILED
    grep -q '^test result: ok. 1 passed' <<<"$log" || verdict=FAILED
    printf '%-6s %s %s %s s\n' "$verdict" "$tool" "$test" $((SECONDS - start))
    [[ $verdict == clean ]] || tail -n 40 <<<"$log" >&2
}
export -f try_tool

failed=0
fail() {
    echo "FAILED: $1" >&2
    failed=1
}

nvidia-smi -L
for binary in "$folder"/*; do
    name=$(basename "$binary") start=$SECONDS
    log=$("$binary" cuda_ device:: --nocapture --test-threads="$(nproc)" 2>&1) || fail "$name"
    tail -n 80 <<<"$log"
    if grep -q SKIPPED <<<"$log"; then fail "$name skipped a test: there is no usable GPU"; fi
    echo "== $name: $((SECONDS - start)) s"
done

# A process for each test and tool, as many at a time as there are cores: tools spend their time on the host.
start=$SECONDS results=$(mktemp)
for tool in $tools; do
    for binary in "$folder"/*; do
        for test in $(chosen "$tool" "$binary"); do
            echo "$tool $binary $test"
        done
    done
done | xargs -r -P "$(nproc)" -L 1 bash -c 'try_tool "$@"' - | tee "$results"
for tool in $tools; do
    count=$(grep -c "^clean  $tool " "$results" || true) bad=$(grep -c "^FAILED $tool " "$results" || true)
    echo "== $tool: $count tests clean, $bad not"
    ((count > 0 && bad == 0)) || fail "$tool"
done
echo "== tools: $((SECONDS - start)) s"
exit "$failed"
