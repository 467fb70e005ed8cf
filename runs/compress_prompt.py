#!/usr/bin/env python3
"""Whether a few-shot prompt keeps its accuracy when TAPruning has halved it:
    runs/compress_prompt.py MODEL [DEVICE] [EXAMPLES]
Sentences of a sentiment are made from templates; the prompt is pruned by EXAMPLES (40) of them at several thresholds, and asked five times as
many others.
DROPCAP names the binary (default: target/release/dropcap). Prints a Markdown table."""
import json, os, random, subprocess, sys, tempfile
from pathlib import Path

DROPCAP = os.environ.get("DROPCAP", str(Path(__file__).resolve().parent.parent / "target/release/dropcap"))
THINGS = "film book meal hotel concert play lecture journey phone garden".split()
WORDS = {
    "great": "wonderful delightful brilliant superb charming moving excellent lovely".split(),
    "terrible": "dreadful boring awful clumsy tedious disappointing horrible dull".split(),
}
FORMS = ["the {t} was {w}", "what a {w} {t}", "I found the {t} {w} from beginning to end", "a {w} {t} , and I told my friends so"]
PROMPT = """Please read each review carefully and then say whether the sentiment of its author is great or terrible .
Review: the film was a joy to watch and I would see it again
Sentiment: great
Review: the service was slow and the food was cold
Sentiment: terrible
Review: {text}
Sentiment:"""


def examples(count, seed):
    rng, made = random.Random(seed), []
    for index in range(count):
        label = ("great", "terrible")[index % 2]
        text = rng.choice(FORMS).format(t=rng.choice(THINGS), w=rng.choice(WORDS[label]))
        made.append({"text": text, "label": label})
    return made


def compress(prompt, task, rule, model, device):
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "prompt.txt").write_text(prompt)
        Path(folder, "task.jsonl").write_text("\n".join(map(json.dumps, task)))
        command = [DROPCAP, "compress", f"{folder}/prompt.txt", "--task", f"{folder}/task.jsonl", "--model", model]
        command += ["--device", device, "--json", *rule]
        return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def accuracy(prompt, count, model, device):
    """On others: a search that ends with its first prompt only scores it."""
    rule = ["--method", "promptquine", "--prompts", "1"]
    return compress(prompt, examples(5 * count, 2), rule, model, device)["before"]["accuracy"]


def main():
    model, device = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "auto"
    count = int(sys.argv[3]) if len(sys.argv) > 3 else 40
    print(f"| threshold | tokens | kept | accuracy, {5 * count} others | prompts tried | s |\n|---|---|---|---|---|---|")
    print(f"| whole | | 100 % | {accuracy(PROMPT, count, model, device):.3f} | | |", flush=True)
    for threshold in (1.0, 0.98, 0.96, 0.9):
        found = compress(PROMPT, examples(count, 1), ["--threshold", str(threshold)], model, device)
        after = accuracy(found["text"], count, model, device)
        print(
            f"| {threshold} | {found['tokens_after']} | {100 * found['share']:.0f} % | {after:.3f} | {found['evaluations']} |"
            f" {found['seconds']:.0f} |",
            flush=True,
        )


main()
