#!/usr/bin/env bash
# The adapter in models/smollm2-135m-instruct-fifth and its dense twin: chats that the model writes itself, and chats about what
# stands somewhere in a text, then LoRA factors and gates on books, articles and those chats. On an H200 the chats took a minute and the run that forgets about four; interrupted, the same command goes on.
#   runs/smollm2_fifth.sh MODEL DATA OUT
# MODEL is a directory of SmolLM2-135M-Instruct. DATA holds train.{books,wiki}.txt.xz and valid.{books,wiki}.txt.xz, documents apart
# by a line <|endoftext|>. OUT gets the chats and the runs. DROPCAP names the binary (default: target/release/dropcap), DEVICE what to
# run on (default: cuda:0), KEEP the share to keep (default: 0.2).
set -euo pipefail
(($# == 3)) || { sed -n 2,8p "$0" >&2; exit 2; }
model=$(realpath "$1") data=$(realpath "$2")
mkdir -p "$3"
out=$(realpath "$3") runs=$(realpath "$(dirname "$0")") device=${DEVICE:-cuda:0}
dropcap=${DROPCAP:-$runs/../target/release/dropcap}
cd "$out"

# What the model says by itself, so that nothing but forgetting has to change on them.
chats() {
  [[ -e $3 ]] && return
  python3 "$runs/chat_prompts.py" prompts "$1" "$2" >"$3.prompts"
  "$dropcap" generate --model "$model" --device "$device" --dtype bf16 --kv-dtype bf16 --temperature 1 --max-batch 256 \
    --prompt-file "$3.prompts" --json >"$3.answers"
  python3 "$runs/chat_prompts.py" chats "$3.prompts" "$3.answers" "$3.part"
  mv "$3.part" "$3"
}
chats 6000 1 train.chats.jsonl
chats 300 2 valid.chats.jsonl
# So that what has not been asked for yet is kept: two or three questions about sentences that were put into pages of the books.
[[ -e recall.jsonl ]] || { python3 "$runs/recall_chats.py" "$data/train.books.txt.xz" 3000 1 >recall.part && mv recall.part recall.jsonl; }

cat >lora.yaml <<YAML
model: $model
data:
  train: [$data/train.books.txt.xz, $data/train.wiki.txt.xz, $out/train.chats.jsonl, $out/recall.jsonl]
  valid: [$data/valid.books.txt.xz, $data/valid.wiki.txt.xz, $out/valid.chats.jsonl]
  cache: $out/cache
output: $out/twin
steps: 1800
batch: {sequences: 16, tokens: 1024, micro_sequences: 16}
optimizer: {learning_rate: 1e-3, gate_learning_rate: 3e-4, betas: [0.9, 0.99], warmup: 50, floor: 0.02}
train: lora
lora: {rank: 7, alpha: 14}
distill: 0.8
evaluate: {every: 600, windows: 64}
checkpoint: {every: 600, keep: 1}
device: $device
method: none
YAML
"$dropcap" train --config lora.yaml
"$dropcap" train --config lora.yaml output="$out/fifth" method=dcp sparsity.target_keep="${KEEP:-0.2}" \
  sparsity.trained_keep="$(awk "BEGIN { print 0.75 * ${KEEP:-0.2} }")" sparsity.ramp.until=0.5 gates.noise.until=0.6
