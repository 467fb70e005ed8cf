#!/usr/bin/env bash
# What forgetting costs a real model, beside a dense twin that was fine-tuned equally and methods that need no training:
#   runs/quality.sh MODEL ADAPTER TWIN DATA TASKS OUT [PART..]
# ADAPTER forgets, TWIN (method: none, same data and steps) does not: runs/real_model.sh makes both. DATA holds test.wiki.txt.xz and
# test.books.txt.xz, TASKS the files of the five tasks. OUT gets one evaluation a part, and table.md and curve.svg of all that are
# there. Parts: texts tasks recall untrained (default: all). DROPCAP names the binary, DEVICE what to run on (default: auto), WINDOWS
# how many windows of each text count (default: 200), EXAMPLES how many of each task (default: all), PROMPTS how many generated
# ones (default: 200), KEEPS at which shares untrained methods are measured (default: 0.5 0.3 0.2 0.1), OTHERS adapters of other
# shares, for the curve.
set -euo pipefail
(($# >= 6)) || { sed -n 2,12p "$0" >&2; exit 2; }
model=$1 adapter=$2 twin=$3 data=$4 tasks=$5 out=$6
shift 6
parts=("$@")
((${#parts[@]})) || parts=(texts tasks recall untrained)
runs=$(dirname "$0")
dropcap=${DROPCAP:-$runs/../target/release/dropcap}
texts=(--task text="$data/test.wiki.txt.xz" --task text="$data/test.books.txt.xz" --limit "${WINDOWS:-200}")
five=(--task lambada="$tasks/lambada_test_openai.jsonl.xz" --task hellaswag="$tasks/hellaswag_val_full.txt.xz"
  --task piqa="$tasks/piqa.jsonl.xz" --task winogrande="$tasks/winogrande.jsonl.xz" --task arc_easy="$tasks/arc_easy.jsonl.xz")
asked=(--task needle --task key_value --task second_question)

# part, then the arguments: one directory each, which the same call goes on with.
measure() {
  local name=$1
  shift
  "$dropcap" eval --model "$model" --device "${DEVICE:-auto}" --dtype bf16 --output "$out/$name" "$@" >/dev/null
}
# The three models that fine-tuning is judged by.
all_three() {
  local name=$1
  shift
  measure "$name-base" --method none "$@"
  measure "$name-twin" --adapter "$twin" --method none "$@"
  measure "$name-forgets" --adapter "$adapter" --method none --method dcp "$@"
}

for part in "${parts[@]}"; do
  case $part in
  texts)
    for window in 1024 2048; do all_three "texts-$window" "${texts[@]}" --window "$window"; done
    # As methods are measured that prune where a prompt ends: half is read first, the rest counts.
    all_three texts-after-512 "${texts[@]}" --window 1024 --context 512
    for other in ${OTHERS:-}; do
      measure "texts-after-512-$(basename "$(dirname "$other")")" --adapter "$other" --method none --method dcp "${texts[@]}" --window 1024 --context 512
    done
    ;;
  tasks) all_three tasks "${five[@]}" ${EXAMPLES:+--limit "$EXAMPLES"} ;;
  recall)
    all_three recall "${asked[@]}" --length 1024,4096 --prompts "${PROMPTS:-200}"
    all_three recall-aware "${asked[@]}" --length 1024,4096 --prompts "${PROMPTS:-200}" --aware
    ;;
  untrained)
    methods=()
    for keep in ${KEEPS:-0.5 0.3 0.2 0.1}; do
      for method in 'streaming_llm(sinks=4, when=prefill_end)' h2o tova snapkv 'ada(snapkv)' expected_attention keydiff knorm compactor; do
        methods+=(--method "$method@$keep")
      done
    done
    # A device that does not have one of them says so; the others are measured all the same.
    for ((i = 1; i < ${#methods[@]}; i += 2)); do
      name=${methods[i]//[^a-z0-9.]/-}
      measure "untrained-$name" --method "${methods[i]}" "${texts[@]}" --window 1024 --context 512 || echo "left out: ${methods[i]}" >&2
    done
    ;;
  *) echo "no part is called $part" >&2; exit 2 ;;
  esac
done
python3 "$runs/quality.py" "$out"
