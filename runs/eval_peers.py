"""The same examples through lm-evaluation-harness on transformers, beside the logs of `dropcap eval`.

    python runs/eval_peers.py MODEL RESULTS..

MODEL is the model's directory, each RESULTS a directory that `dropcap eval --output` wrote with `--method none` on the
processor in f32. The harness (lm-eval) reads the same files, makes its own prompts and tokens of them, scores them with
its `HFLM` and judges them with its metrics; of texts it makes its own rolling windows. Nothing is imitated here: a task
below is the harness' own configuration with other names of fields. Answers are kept in RESULTS/lm-eval_rank0.db, so that a run
that was stopped goes on.

Prints a table, and every example that is judged otherwise with the numbers of both. Fails where the loss of a task or a
text differs by more than 1e-4 relative, or a judgement differs.
"""

import json
import lzma
import os
import re
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

import torch
from lm_eval import evaluator, utils
from lm_eval.models.huggingface import HFLM
from tqdm import tqdm

TOLERANCE = 1e-4
BOTH = ["acc", "acc_norm"]

# tasks/piqa, arc, hellaswag, winogrande, lambada of lm-evaluation-harness 0.4, on the fields of these files. PIQA's
# queries end with a line break that stands in the harness' prompt anyway.
TASKS = {
    "lambada": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{text.split(' ')[:-1]|join(' ')}}",
        "doc_to_target": "{{' '+text.split(' ')[-1]}}",
        "metrics": ["acc"],
    },
    "hellaswag": {"doc_to_text": "{{query}}", "doc_to_target": "{{gold}}", "doc_to_choice": "choices", "metrics": BOTH},
    "piqa": {
        "doc_to_text": lambda doc: doc["query"].removesuffix("\n") + "\nAnswer:",
        "doc_to_target": "{{gold}}",
        "doc_to_choice": "choices",
        "metrics": BOTH,
    },
    "arc_easy": {"doc_to_text": "{{query}}\nAnswer:", "doc_to_target": "{{gold}}", "doc_to_choice": "choices", "metrics": BOTH},
    "winogrande": {
        "doc_to_text": lambda doc: doc["gold"],
        "doc_to_target": lambda doc: doc["continuation"],
        "doc_to_choice": lambda doc: doc["context_options"],
        "metrics": ["acc"],
    },
}


def lines(path):
    with (lzma.open if path.endswith(".xz") else open)(path, "rt", encoding="utf-8") as file:
        return file.read().split("\n")


def hellaswag(rows):
    for i in range(0, len(rows) - 5, 6):
        yield json.dumps({"query": rows[i], "gold": int(rows[i + 1]), "choices": rows[i + 2 : i + 6]})


def judged_by_the_harness(name, path, numbers, lm, cache):
    """For each example of these: log-likelihood of each continuation, whether it is the greedy one, and the metrics."""
    rows = list(filter(None, lines(path)) if name != "hellaswag" else hellaswag(lines(path)))
    rows = [rows[number] for number in numbers]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{name}.jsonl"
        file.write_text("\n".join(rows) + "\n", encoding="utf-8")
        config = {"output_type": "multiple_choice", **TASKS[name]}
        metrics = config.pop("metrics")
        config |= {
            "task": f"peer_{name}",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(file)}, "cache_dir": folder},
            "test_split": "test",
            "metric_list": [{"metric": m, "aggregation": "mean", "higher_is_better": True} for m in metrics],
        }
        out = evaluator.simple_evaluate(
            lm, tasks=[config], use_cache=str(cache), bootstrap_iters=0, num_fewshot=0
        )
    samples = sorted(out["samples"][config["task"]], key=lambda sample: sample["doc_id"])
    for sample in samples:
        answers = sample["filtered_resps"]
        yield [(float(a[0]), str(a[1]) == "True") for a in answers], {m: bool(sample[m]) for m in metrics}


def judged_here(outcome, metrics):
    values = outcome["log_likelihood"]
    if len(values) == 1:
        return {"acc": outcome["greedy"][0]}
    normed = [value / length for value, length in zip(values, outcome["characters"])]
    best = lambda scores: max(range(len(scores)), key=lambda i: scores[i]) == outcome["gold"]
    return {m: best(values if m == "acc" else normed) for m in metrics}


def relative(a, b):
    return abs(a - b) / abs(b)


def compare_task(name, path, log, lm, cache):
    """Prints rows of the table; the relative difference of the losses, and what is judged otherwise."""
    outcomes = {number: outcome.get("likelihood") for (task, number), outcome in log.items() if task == name}
    # The harness stops at a continuation without a token of its own, and cuts what does not fit the model.
    numbers = sorted(number for number, outcome in outcomes.items() if outcome is not None)
    left_out = len(outcomes) - len(numbers)
    ours, theirs, worst, differences = [], [], 0.0, []
    hits = {m: [0, 0] for m in TASKS[name]["metrics"]}
    for number, (answers, judged) in zip(numbers, judged_by_the_harness(name, path, numbers, lm, cache), strict=True):
        outcome = outcomes[number]
        mine, other = outcome["log_likelihood"], [a[0] for a in answers]
        worst = max([worst] + [abs(a - b) for a, b in zip(mine, other)])
        ours.append(-sum(mine))
        theirs.append(-sum(other))
        here = judged_here(outcome, judged)
        for metric, count in hits.items():
            count[0] += here[metric]
            count[1] += judged[metric]
            if here[metric] != judged[metric]:
                differences.append(f"{name} {number}, {metric}: dropcap {mine}, lm-eval {other}")
    n = len(ours)
    examples = f"{n}" + (f" (and {left_out} left out)" if left_out else "")
    mean = lambda values: f"{sum(values) / n:.6f}"
    print(f"| {name} | {examples} | nats per example | {mean(ours)} | {mean(theirs)} | {worst:.1e} |")
    for metric, (a, b) in hits.items():
        print(f"| {name} | {examples} | {metric} | {a / n:.4f} | {b / n:.4f} | {abs(a - b)} examples |")
    return relative(sum(ours), sum(theirs)), differences


def documents(path):
    for text in re.split(r"(?m)^<\|endoftext\|>$", "\n".join(lines(path))):
        text = re.sub(r"\A(?:[^\S\n]*\n)+", "", text).rstrip()
        if text:
            yield text


def spread(items, limit):
    taken = max(1, min(limit or len(items), len(items)))
    return [x for i, x in enumerate(items) if i * taken // len(items) != (i + 1) * taken // len(items)]


def compare_text(name, path, length, limit, log, lm):
    windows = []
    for text in documents(path):
        # The token that begins a text stands once before it: the harness puts another where the tokenizer has put one.
        tokens = lm.tok_encode(text, add_special_tokens=False)
        rolled = utils.get_rolling_token_windows(tokens, lm.prefix_token_id, length, 1)
        windows += [(None, *utils.make_disjoint_window(window)) for window in rolled]
    ours, theirs, worst, tokens = 0.0, 0.0, 0.0, 0
    chosen = spread(windows, limit)
    for number, window in enumerate(tqdm(chosen)):
        mine = log[name, number]["window"]["nats"]
        assert len(mine) == len(window[2]), f"window {number}: {len(mine)} and {len(window[2])} tokens"
        other = -lm._loglikelihood_tokens([window], disable_tqdm=True)[0][0]
        worst = max(worst, abs(sum(mine) - other) / len(mine))
        ours, theirs, tokens = ours + sum(mine), theirs + other, tokens + len(mine)
    print(f"| {name} | {len(chosen)} windows | nats per token | {ours / tokens:.6f} | {theirs / tokens:.6f} | {worst:.1e} |")
    return relative(ours, theirs), []


def main(directory, *results):
    torch.set_grad_enabled(False)
    torch.set_num_threads(int(os.environ.get("THREADS", torch.get_num_threads())))
    # torch's log_softmax in f32 over 49,152 tokens is 1.6e-5 nats too large on average; f64 of the same logits is not.
    lm = HFLM(
        pretrained=directory,
        dtype="float32",
        softmax_dtype="float64",
        device="cpu",
        batch_size=int(os.environ.get("BATCH", 8)),
    )
    print("| task | examples | measure | dropcap | lm-eval on transformers | largest difference in nats |")
    print("|---|---|---|---|---|---|", flush=True)
    worst, differences = 0.0, []
    for folder in map(Path, results):
        log = {}
        for row in open(folder / "examples.jsonl"):
            record = json.loads(row)
            if record["method"] == "none":
                log[record["task"], record["example"]] = record["outcome"]
        for task in json.load(open(folder / "config.json"))["tasks"]:
            name, path = task["name"], task.get("file")
            if name.startswith("text "):
                found = compare_text(name, path, task["window"], task["limit"], log, lm)
            elif name in TASKS:
                found = compare_task(name, path, log, lm, folder / "lm-eval")
            else:
                continue
            worst, differences = max(worst, found[0]), differences + found[1]
            sys.stdout.flush()
    print(*differences, sep="\n")
    sys.exit("the two do not agree" if differences or worst > TOLERANCE else 0)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
