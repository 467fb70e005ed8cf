#!/usr/bin/env bash
# Teaches a model to keep a fifth of its context, and trains a dense twin on the same batches, on one GPU:
#   runs/real_model.sh MODEL OUTPUT TRAIN_FILE.. -- HELD_OUT_FILE..
# LOG.md has what it came to on SmolLM2-135M-Instruct. DROPCAP names the binary (default: target/release/dropcap).
set -euo pipefail
model=$1 output=$2
shift 2
train=() valid=()
while (($#)) && [[ $1 != -- ]]; do train+=("$1"); shift; done
[[ ${1-} == -- ]] && shift
valid=("$@")
((${#train[@]} && ${#valid[@]})) || { sed -n 2,4p "$0" >&2; exit 2; }
dropcap=${DROPCAP:-$(dirname "$0")/../target/release/dropcap}
list() { local IFS=,; echo "[$*]"; }
mkdir -p "$output"
cat >"$output/dense.yaml" <<YAML
model: $model
data: {train: $(list "${train[@]}"), valid: $(list "${valid[@]}"), cache: $output/cache}
steps: 1000
batch: {sequences: 16, tokens: 1024, micro_sequences: 16}
distill: 0.8
device: cuda:0
evaluate: {every: 500, windows: 32}
checkpoint: {every: 1000, keep: 1}
output: $output/dense
method: none
YAML
"$dropcap" train --config "$output/dense.yaml"
"$dropcap" train --config "$output/dense.yaml" method=dcp sparsity.target_keep=0.2 output="$output/fifth"
