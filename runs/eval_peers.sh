#!/usr/bin/env bash
# The same examples through dropcap and through lm-evaluation-harness on transformers: losses to 1e-4, the same
# judgements (runs/eval_peers.py).
#
#     runs/eval_peers.sh MODEL TASKS OUT [LIMIT]
#
# MODEL is a model's directory; TASKS a folder with lambada_test_openai.jsonl, hellaswag_val_full.txt, piqa.jsonl,
# winogrande.jsonl, arc_easy.jsonl and wikitext2.test.raw, each packed with xz; OUT a directory for the results, which a
# second run goes on from; LIMIT the first examples of each task [200], and a tenth of it windows of the text.
# Needs python with torch, transformers and lm-eval: PYTHON=... chooses which. DROPCAP=... chooses the command.
set -euo pipefail
[[ $# -ge 3 ]] || { sed -n '2,11s/^# \?//p' "$0"; exit 2; }
model=$1 tasks=$2 out=$3 limit=${4:-200}
dropcap=${DROPCAP:-cargo run --release --quiet --}
common=(--model "$model" --device cpu --dtype f32 --kv-dtype f32 --method none)

$dropcap eval "${common[@]}" --limit "$limit" --output "$out/tasks" \
  --task lambada="$tasks/lambada_test_openai.jsonl.xz" --task hellaswag="$tasks/hellaswag_val_full.txt.xz" \
  --task piqa="$tasks/piqa.jsonl.xz" --task winogrande="$tasks/winogrande.jsonl.xz" \
  --task arc_easy="$tasks/arc_easy.jsonl.xz"
$dropcap eval "${common[@]}" --limit $(( (limit + 9) / 10 )) --output "$out/text" --window 512 \
  --task text="$tasks/wikitext2.test.raw.xz"
"${PYTHON:-python3}" "$(dirname "$0")/eval_peers.py" "$model" "$out/tasks" "$out/text"
