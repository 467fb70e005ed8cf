#!/usr/bin/env bash
# A small model from nothing, then pruned, beside a plain window that is fine-tuned equally long: about an hour on two cores.
#   runs/small_model.sh DATA OUT
# DATA holds train.*.txt.xz and valid.*.txt.xz, documents apart by a line <|endoftext|>. OUT gets one folder a run, each
# with its metrics and its model, and curves.svg. Interrupted, the same command goes on.
set -euo pipefail
data=$(realpath "$1")
mkdir -p "$2"
out=$(realpath "$2")
cd "$(dirname "$0")/.."
cargo build --release --locked --bin dropcap
dropcap=$PWD/target/release/dropcap
plot=$PWD/runs/plot_runs.py
cd "$out"

list() { printf '%s\n' "$data"/"$1".*.txt.xz | paste -sd, -; }
[ -e tokenizer.json ] || "$dropcap" tokenizer train "$data"/train.*.txt.xz -v 4096 -o tokenizer.json

cat > dense.yaml <<YAML
init: {family: gpt2, layers: 4, hidden: 160, heads: 5, context: 512}
tokenizer: $out/tokenizer.json
data: {train: [$(list train)], valid: [$(list valid)], cache: $out/cache}
output: $out/dense
steps: 2000
batch: {sequences: 16, tokens: 512}
optimizer: {learning_rate: 2e-3, warmup: 100}
YAML
cat > tuned.yaml <<YAML
model: $out/dense/model
data: {train: [$(list train)], valid: [$(list valid)], cache: $out/cache}
output: $out/keep20
steps: 500
batch: {sequences: 16, tokens: 512}
optimizer: {learning_rate: 3e-4}
distill: 0.8
evaluate: {windows: 48}
YAML

"$dropcap" train -c dense.yaml
"$dropcap" train -c tuned.yaml output="$out/keep20" 'gates={recent: 12, sinks: 4}' sparsity.target_keep=0.195 dtype=bf16
"$dropcap" train -c tuned.yaml output="$out/window" method=window 'window={sinks: 4, recent: 70}'
"$dropcap" train -c tuned.yaml output="$out/plain" method=none
"$dropcap" train -c tuned.yaml output="$out/keep50" 'gates={recent: 12, sinks: 4}' sparsity.target_keep=0.485
python3 "$plot" curves.svg plain window keep20 keep50
