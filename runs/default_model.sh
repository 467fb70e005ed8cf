#!/usr/bin/env bash
# The model that the command carries: a tokenizer, a Llama-layout model of 7 million parameters from nothing, then the gates that
# keep a fifth. Six minutes of training on one H200; interrupted, the same command goes on.
#   runs/default_model.sh DATA OUT
# DATA holds train.*.txt.xz, valid.*.txt.xz and test.*.txt.xz, documents apart by a line <|endoftext|>. OUT gets the runs;
# OUT/fifth/model is what models/default holds, with its chat template beside it. DROPCAP names the binary (default:
# target/release/dropcap), DEVICE what to train on (default: auto).
set -euo pipefail
(($# == 2)) || { sed -n 2,8p "$0" >&2; exit 2; }
data=$(realpath "$1")
mkdir -p "$2"
out=$(realpath "$2")
runs=$(realpath "$(dirname "$0")")
dropcap=${DROPCAP:-$runs/../target/release/dropcap}
cd "$out"

list() { printf '%s\n' "$data"/"$1".*.txt.xz | paste -sd, -; }
[ -e tokenizer.json ] || "$dropcap" tokenizer train "$data"/train.*.txt.xz -v 6144 -o tokenizer.json

cat > dense.yaml <<YAML
init: {family: llama, layers: 7, hidden: 256, heads: 4, kv_heads: 2, context: 1024, intermediate: 768}
tokenizer: $out/tokenizer.json
data: {train: [$(list train)], valid: [$(list valid)], cache: $out/cache}
output: $out/dense
steps: 12000
batch: {sequences: 64, tokens: 1024, micro_sequences: 64}
optimizer: {learning_rate: 3e-3, betas: [0.9, 0.95], weight_decay: 0.1, warmup: 300}
evaluate: {every: 1000, windows: 64}
checkpoint: {every: 2000, keep: 1}
device: ${DEVICE:-auto}
YAML
cat > fifth.yaml <<YAML
model: $out/dense/model
data: {train: [$(list train)], valid: [$(list valid)], cache: $out/cache}
output: $out/fifth
steps: 1500
batch: {sequences: 64, tokens: 1024, micro_sequences: 64}
optimizer: {learning_rate: 3e-4}
distill: 0.8
sparsity: {target_keep: 0.195}
dtype: f16
evaluate: {every: 500, windows: 64}
checkpoint: {every: 1500, keep: 1}
device: ${DEVICE:-auto}
YAML
"$dropcap" train --config dense.yaml
"$dropcap" train --config fifth.yaml

for file in "$data"/test.*.txt.xz; do
  "$dropcap" eval --model fifth/model --method dcp --task text="$file" --window 1024 --device "${DEVICE:-auto}"
done
"$runs"/repeats.sh fifth/model
