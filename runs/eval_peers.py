"""The same examples through transformers, beside the log of a `dropcap eval`.

    python runs/eval_peers.py RESULTS MODEL

RESULTS is a directory that `dropcap eval --output` wrote with `--method none` on the processor in f32, MODEL the model's
directory. Prompts, seams and rolling windows follow lm-evaluation-harness (lm_eval/api/model.py `_encode_pair`,
lm_eval/utils.py `get_rolling_token_windows`), written here from its description and not from dropcap. Prints a table:
losses, their largest relative difference over single examples, and accuracies. Fails above 1e-4, or where an accuracy
differs.
"""

import json
import lzma
import re
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

TOLERANCE = 1e-4


def lines(path):
    with (lzma.open if path.endswith(".xz") else open)(path, "rt", encoding="utf-8") as file:
        return file.read().split("\n")


def pairs(name, path):
    """(context, continuation, length of the choice) of each choice, and the right one."""
    if name == "hellaswag":
        rows = lines(path)
        for i in range(0, len(rows) - 5, 6):
            context, gold, *endings = rows[i : i + 6]
            yield [(context, " " + e, len(e)) for e in endings], int(gold)
        return
    for row in filter(None, lines(path)):
        e = json.loads(row)
        if name == "lambada":
            words = e["text"].split(" ")
            yield [(" ".join(words[:-1]), " " + words[-1], len(words[-1]))], 0
        elif name == "winogrande":
            yield [(c, " " + e["continuation"], 1) for c in e["context_options"]], e["gold"]
        elif name in ("piqa", "arc_easy"):
            prompt = e["query"].rstrip("\n") + "\nAnswer:"
            yield [(prompt, " " + c, len(c)) for c in e["choices"]], e["gold"]
        else:
            yield [(e["context"], e.get("delimiter", " ") + c, len(c)) for c in e["choices"]], e["gold"]


def encode_pair(encode, context, continuation, prefix):
    spaces = len(context) - len(context.rstrip())
    if spaces:
        context, continuation = context[:-spaces], context[-spaces:] + continuation
    if not context:
        return [prefix], encode(continuation)
    whole, context = encode(context + continuation), encode(context)
    return context, whole[len(context) :]


def rolling(tokens, prefix, length):
    """(inputs, targets): all inputs of a window, and as many targets as count, which are the last."""
    first = min(length, len(tokens))
    yield [prefix] + tokens[: first - 1], tokens[:first]
    done = first
    while done < len(tokens):
        count = min(len(tokens) - done, length)
        end = done + count
        yield tokens[end - length - 1 : end - 1], tokens[end - count : end]
        done += count


def documents(path):
    for text in re.split(r"(?m)^<\|endoftext\|>$", "\n".join(lines(path))):
        text = re.sub(r"\A(?:[^\S\n]*\n)+", "", text).rstrip()
        if text:
            yield text


def spread(items, limit):
    taken = max(1, min(limit or len(items), len(items)))
    return [x for i, x in enumerate(items) if i * taken // len(items) != (i + 1) * taken // len(items)]


def main(results, directory):
    torch.set_grad_enabled(False)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=f"{directory}/tokenizer.json")
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False)
    special = model.config.bos_token_id
    prefix = special if special is not None else model.config.eos_token_id

    def score(context, continuation):
        """Log-probabilities of the continuation's tokens, and whether each was the likeliest."""
        ids = torch.tensor([(context + continuation)[:-1]])
        logits = model(ids).logits[0, -len(continuation) :].double()
        targets = torch.tensor(continuation)
        return logits.log_softmax(-1).gather(1, targets[:, None])[:, 0], logits.argmax(-1) == targets

    log = {}
    for row in open(Path(results) / "examples.jsonl"):
        record = json.loads(row)
        if record["method"] == "none":
            log[record["task"], record["example"]] = record["outcome"]
    tasks = json.load(open(Path(results) / "config.json"))["tasks"]
    print("| task | examples | measure | dropcap | transformers | largest difference of an example |")
    print("|---|---|---|---|---|---|")
    failed = False
    for task in tasks:
        name, path = task["name"], task.get("file")
        if path is None:
            continue
        ours, theirs, worst = [], [], 0.0
        if name.startswith("text "):
            windows = [w for d in documents(path) for w in rolling(encode(d), prefix, task["window"])]
            for number, (inputs, targets) in enumerate(spread(windows, task["limit"])):
                log_probs, _ = score(inputs[: len(inputs) - len(targets) + 1], targets)
                window = log[name, number]["window"]["nats"]
                mine, other = sum(window) / len(window), -log_probs.mean().item()
                worst = max(worst, abs(mine - other) / other)
                ours.append((sum(window), len(window)))
                theirs.append((-log_probs.sum().item(), len(targets)))
            mean = lambda sums: sum(s for s, _ in sums) / sum(n for _, n in sums)
            failed |= worst > TOLERANCE
            print(f"| {name} | {len(ours)} | nats per token | {mean(ours):.6f} | {mean(theirs):.6f} | {worst:.1e} |")
            continue
        hits = {"acc": [0, 0], "acc_norm": [0, 0]}
        examples = list(pairs(name, path))[: task["limit"]]
        left_out = 0
        for number, (choices, gold) in enumerate(examples):
            outcome = log[name, number]
            if "likelihood" not in outcome:
                left_out += 1
                continue
            mine = outcome["likelihood"]
            other, greedy = [], []
            for context, continuation, _ in choices:
                log_probs, likeliest = score(*encode_pair(encode, context, continuation, prefix))
                other.append(log_probs.sum().item())
                greedy.append(bool(likeliest.all()))
            worst = max([worst] + [abs(a - b) / abs(b) for a, b in zip(mine["log_likelihood"], other)])
            ours.append(-sum(mine["log_likelihood"]))
            theirs.append(-sum(other))
            sizes = [length for _, _, length in choices]
            for column, (values, all_greedy) in enumerate([(mine["log_likelihood"], mine["greedy"]), (other, greedy)]):
                best = lambda scores: max(range(len(scores)), key=lambda i: scores[i])
                normed = [v / s for v, s in zip(values, sizes)]
                hits["acc"][column] += all_greedy[0] if len(choices) == 1 else best(values) == gold
                hits["acc_norm"][column] += best(normed) == gold
        count = len(ours)
        failed |= worst > TOLERANCE or hits["acc"][0] != hits["acc"][1] or hits["acc_norm"][0] != hits["acc_norm"][1]
        note = f" (and {left_out} too long)" if left_out else ""
        print(
            f"| {name} | {count}{note} | nats per example | {sum(ours) / count:.6f} | {sum(theirs) / count:.6f} | {worst:.1e} |"
        )
        for measure in ("acc",) if name in ("lambada", "winogrande") else ("acc", "acc_norm"):
            a, b = hits[measure]
            print(f"| {name} | {count} | {measure} | {a / count:.4f} | {b / count:.4f} | {abs(a - b)} examples |")
    sys.exit("the two do not agree" if failed else 0)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
