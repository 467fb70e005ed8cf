#!/usr/bin/env bash
# What forgetting costs a real model, beside a dense twin that was fine-tuned equally and methods that need no training:
#   runs/quality.sh MODEL ADAPTER TWIN DATA TASKS OUT [PART..]
# ADAPTER forgets, TWIN (method: none, same data and steps) does not: runs/real_model.sh makes both. DATA holds test.wiki.txt.xz and
# test.books.txt.xz, TASKS the files of the five tasks. OUT gets a directory for each evaluation, and table.md and curve.svg of all
# that are there. Parts: texts, tasks (or one of lambada hellaswag piqa winogrande arc_easy), recall and recall-aware (or one of needle
# key_value second_question, with or without -aware), untrained; all without one.
#
# The same call goes on where it was stopped: what is done is not run again, and an evaluation that was cut goes on with its next
# example. JOBS evaluations run at a time (default: 1), in turn on all GPUs; each may take KV_LIMIT for keys and values (default: all
# there is, or 3GiB where several run) and THREADS threads (default: its share). MINUTES ends the call after so many minutes, with
# status 75 if something is left to do.
#
# DROPCAP names the binary, DEVICE what to run on (default: auto), WINDOWS how many windows of each text count (default: 200),
# EXAMPLES how many of each task (default: all), PROMPTS how many generated ones (default: 200) of which LENGTHS (default: 1024 4096),
# KEEPS at which shares untrained methods are measured (default: 0.5 0.3 0.2 0.1), OTHERS adapters of other shares and WINDOWED one that
# was trained with `method: window` (and its defaults), for the curve.
set -euo pipefail
(($# >= 6)) || { sed -n '2,19s/^# \{0,1\}//p' "$0" >&2; exit 2; }
model=$1 adapter=$2 twin=$3 data=$4 tasks=$5
export out=$6
shift 6
parts=("$@")
((${#parts[@]})) || parts=(texts tasks recall recall-aware untrained)
runs=$(dirname "$0")
jobs=${JOBS:-1}
export dropcap=${DROPCAP:-$runs/../target/release/dropcap} device=${DEVICE:-auto}
export threads=${THREADS:-$(($(nproc) > jobs ? $(nproc) / jobs : 1))}
export kv_limit=${KV_LIMIT:-$( ((jobs == 1)) || echo 3GiB)}
export end=$(($(date +%s) + 60 * ${MINUTES:-100000}))
export cards=${CUDA_VISIBLE_DEVICES:-$(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null | paste -sd, || true)}
texts=(--task text="$data/test.wiki.txt.xz" --task text="$data/test.books.txt.xz" --limit "${WINDOWS:-200}")
declare -A files=([lambada]=lambada_test_openai.jsonl.xz [hellaswag]=hellaswag_val_full.txt.xz [piqa]=piqa.jsonl.xz
  [winogrande]=winogrande.jsonl.xz [arc_easy]=arc_easy.jsonl.xz)

# A directory's name, then the arguments that it is evaluated with.
wanted=()
want() { wanted+=("$(printf '%q ' "$1" --model "$model" --dtype bf16 "${@:2}")"); }
# The three models that fine-tuning is judged by.
all_three() {
  want "$1-base" --method none "${@:2}"
  want "$1-twin" --adapter "$twin" --method none "${@:2}"
  want "$1-forgets" --adapter "$adapter" --method none --method dcp "${@:2}"
}
# A task, and its part's suffix.
recall() {
  local length
  for length in ${LENGTHS:-1024 4096}; do
    all_three "$1-$length$2" --task "$1" --length "$length" --prompts "${PROMPTS:-200}" ${2:+--aware}
  done
}

plan() {
  local window other name method
  case $1 in
  texts)
    for window in 1024 2048; do all_three "texts-$window" "${texts[@]}" --window "$window"; done
    # As methods are measured that prune where a prompt ends: half is read first, the rest counts.
    all_three texts-after-512 "${texts[@]}" --window 1024 --context 512
    for other in ${OTHERS:-}; do
      want "texts-after-512-$(basename "$(dirname "$other")")" --adapter "$other" --method none --method dcp "${texts[@]}" --window 1024 --context 512
    done
    [[ -z ${WINDOWED:-} ]] ||
      want texts-after-512-window --adapter "$WINDOWED" --method 'streaming_llm(sinks=4, recent=150)' "${texts[@]}" --window 1024 --context 512
    ;;
  tasks) for name in lambada hellaswag piqa winogrande arc_easy; do plan "$name"; done ;;
  lambada | hellaswag | piqa | winogrande | arc_easy)
    all_three "$1" --task "$1=$tasks/${files[$1]}" ${EXAMPLES:+--limit "$EXAMPLES"}
    ;;
  recall | recall-aware) for name in needle key_value second_question; do plan "$name${1#recall}"; done ;;
  needle | key_value | second_question) recall "$1" "" ;;
  needle-aware | key_value-aware | second_question-aware) recall "${1%-aware}" -aware ;;
  untrained)
    for keep in ${KEEPS:-0.5 0.3 0.2 0.1}; do
      for method in 'streaming_llm(sinks=4, when=prefill_end)' h2o tova snapkv 'ada(snapkv)' expected_attention keydiff knorm compactor; do
        name=$method@$keep
        want "untrained-${name//[^a-z0-9.]/-}" --method "$name" "${texts[@]}" --window 1024 --context 512
      done
    done
    ;;
  *) echo "no part is called $1" >&2; exit 2 ;;
  esac
}

# One line: what became of an evaluation, and how long that took. What was done is known by its arguments.
measure() {
  local name=$1 log=$out/$1.log start=$SECONDS left=$((end - $(date +%s))) status=0 card
  shift
  [[ -e $out/$name.done && $(<"$out/$name.done") == "$*" ]] && { echo "known  $name"; return 0; }
  ((left > 0)) || { echo "later  $name"; return 0; }
  IFS=, read -ra card <<<"$cards"
  [[ $device == cpu || -z $cards ]] || export CUDA_VISIBLE_DEVICES=${card[SLOT % ${#card[@]}]}
  timeout "$left" "$dropcap" eval "$@" --device "$device" --threads "$threads" ${kv_limit:+--kv-limit "$kv_limit"} --output "$out/$name" \
    >"$log" 2>&1 || status=$?
  case $status in
  0) echo "$*" >"$out/$name.done" && echo "done   $name $((SECONDS - start)) s" ;;
  124) echo "cut    $name" ;;
  # A device that does not have a method says so; the others are measured all the same.
  *) [[ $name == untrained-* ]] && echo "left out $name: $(tail -n 1 "$log")" || { echo "FAILED $name: $(tail -n 1 "$log")"; return 1; } ;;
  esac
}
export -f measure

for part in "${parts[@]}"; do plan "$part"; done
mkdir -p "$out"
failed=0
lines=$(printf '%s\0' "${wanted[@]}" | xargs -0 -n 1 -P "$jobs" --process-slot-var=SLOT bash -c 'eval "measure $1"' - | tee >(cat >&2)) || failed=1
python3 "$runs/quality.py" "$out"
((failed == 0)) || exit 1
if grep -qE '^(later|cut) ' <<<"$lines"; then
  echo "something is left: the same call goes on" >&2
  exit 75
fi
