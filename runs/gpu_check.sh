#!/usr/bin/env bash
# Every test that needs a GPU, and a selection of them under the four tools of compute-sanitizer: a process for each, as many at
# a time as there are cores, over all GPUs. Exits with an error if one fails or skips.
#
#   runs/gpu_check.sh                   builds the tests and runs all of this
#   runs/gpu_check.sh --build           only builds them, into target/gpu-check
#   runs/gpu_check.sh --built [FOLDER]  runs what lies in FOLDER (target/gpu-check)
#
# TOOLS="plain memcheck" names other tools; plain is none. ONLY=REGEX takes the tests whose names it finds. The selection for
# sanitizers is made for three minutes on an H200 (LOG.md).
#
# For a machine without Rust: build here, and bring this script, the folder target/gpu-check and the folder tests/golden,
# at the same places below one directory. Needed there are a driver, NVRTC, cuBLASLt and compute-sanitizer.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=target/gpu-check
tools=${TOOLS:-plain memcheck racecheck synccheck initcheck}

build() {
    mkdir -p "$folder"
    rm -f "$folder"/*
    # As tests are built: with overflow checks and debug assertions.
    {
        cargo test -p dropcap-kernels --lib --no-run
        cargo test -p dropcap-engine --test cuda --no-run
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
    *) sed -n 's/^# \{0,1\}//p' "$0" | sed -n 2,14p >&2; exit 2 ;;
esac

# The tests of a binary for a tool. Some take minutes under a sanitizer; what those launch, shorter ones launch too.
chosen() {
    local tool=$1 binary=$2 spared=cuda_memory_that_is_not_there # the driver's refusal would count as an error of ours
    if [[ $tool == plain ]]; then
        "$binary" --list | sed -n 's/: test$//p' | grep -E '(^|::)cuda_[^:]*$|device::' | grep -E "${ONLY:-.}"
        return
    fi
    spared+='|cuda_pruned_runs_equal|cuda_batches_give|cuda_frequencies_follow|cuda_the_first_query_that_refuses'
    spared+='|cuda_votes_do_not_depend|cuda_products_agree_with'
    if [[ $tool == racecheck || $tool == initcheck ]]; then
        [[ $binary == *dropcap_kernels ]] || return 0
        spared+='|cuda_prefill_(agrees|is)|cuda_one_sequence_may|cuda_decode_agrees|cuda_reclaim_frees|cuda_lanes_(that|grow)'
        spared+='|cuda_a_recorded_step_grows|cuda_products_of_a_norm|cuda_gated_products'
    fi
    if [[ $tool == racecheck ]]; then
        spared+='|cuda_training_attends_with_(wide_heads_over|grouped|a_gate|one_gate)'
        # It reports kernels of cuBLASLt's, votes, which look at a minimum that others lower meanwhile only to save work, and steps of a
        # ring that one lane signals for its warp, which met before (where all lanes signal it has nothing to say).
        spared+='|cuda_tuned_and_recorded_products|cuda_products_in_parts|cuda_votes_of_long_prompts|cuda_one_row_with_blocks'
    fi
    "$binary" --list | sed -n 's/: test$//p' | grep -E '(^|::)cuda_[^:]*$' | grep -vE "$spared" |
        grep -E "${ONLY:-.}"
}

# One line: whether a test passed and the tool found nothing in it, and how long that took.
try_one() {
    local tool=$1 binary=$2 test=$3 start=$SECONDS verdict=clean log run=()
    export CUDA_VISIBLE_DEVICES=$((SLOT % gpus))
    [[ $tool == plain ]] || run=(compute-sanitizer --tool "$tool" --error-exitcode 9 --print-limit 5)
    log=$(timeout 300 "${run[@]}" "$binary" --exact "$test" --test-threads=1 --nocapture 2>&1) || verdict=FAILED
    if ! grep -q '^test result: ok. 1 passed' <<<"$log" || grep -q SKIPPED <<<"$log"; then verdict=FAILED; fi
    printf '%-6s %s %s %s s\n' "$verdict" "$tool" "$test" $((SECONDS - start))
    [[ $verdict == clean ]] || tail -n 40 <<<"$log" >&2
}
export -f try_one

failed=0
fail() {
    echo "FAILED: $1" >&2
    failed=1
}

nvidia-smi -L
gpus=$(nvidia-smi -L | wc -l)
export gpus
# What one test takes of a card's memory another would see; the first tool's slow compilations of kernels serve the others.
for tool in $tools; do
    start=$SECONDS results=$(mktemp)
    for binary in "$folder"/*; do
        for test in $(chosen "$tool" "$binary" || true); do
            echo "$tool $binary $test"
        done
    done >"$results.all"
    grep -v takes_no_memory "$results.all" |
        xargs -r -P "$(nproc)" -L 1 --process-slot-var=SLOT bash -c 'try_one "$@"' - | tee "$results" || true
    grep takes_no_memory "$results.all" | SLOT=0 xargs -r -L 1 bash -c 'try_one "$@"' - | tee -a "$results" || true
    count=$(grep -c "^clean " "$results" || true) bad=$(grep -c "^FAILED " "$results" || true)
    echo "== $tool: $count tests clean, $bad not, $((SECONDS - start)) s"
    ((count > 0 && bad == 0)) || fail "$tool"
done
exit "$failed"
