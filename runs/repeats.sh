#!/usr/bin/env bash
# How often a model's texts repeat themselves: of ten ordinary openings, 200 tokens each, how many hold 8 tokens three times over;
# greedy, and with the sampling that the README shows, for two seeds.
#   runs/repeats.sh MODEL
# DROPCAP names the binary (default: target/release/dropcap).
set -euo pipefail
model=$1
dropcap=${DROPCAP:-$(dirname "$0")/../target/release/dropcap}
openings='{"prompt": "Once upon a time"}
{"prompt": "The history of the city of London begins"}
{"prompt": "It was a dark night, and the rain"}
{"prompt": "\"I do not believe you,\" said the captain,"}
{"prompt": "In 1914, the British government"}
{"prompt": "She opened the letter slowly. It said:"}
{"prompt": "The species is found in"}
{"prompt": "My dear friend,"}
{"prompt": "When the train arrived at the station,"}
{"prompt": "The old man sat down by the fire and began to tell"}'
count() {
  "$dropcap" generate --model "$model" --method dcp -n 200 --ignore-eos --json --prompt-file - "$@" <<<"$openings" | python3 -c '
import collections, json, sys
repeat = lambda ids: max(collections.Counter(zip(*(ids[i:] for i in range(8)))).values()) >= 3
texts = [json.loads(line)["token_ids"] for line in sys.stdin]
print(sum(map(repeat, texts)), "of", len(texts), "texts repeat 8 tokens three times:", *sys.argv[1:])' "$@"
}
count --temperature 0
for seed in 1 2; do count --temperature 0.8 --top-p 0.95 --repetition-penalty 1.1 --seed "$seed"; done
