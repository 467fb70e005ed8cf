#!/usr/bin/env python3
"""Whether a few-shot prompt keeps its accuracy when TAPruning has halved it:
    runs/compress_prompt.py MODEL [DEVICE]
Sentences of a sentiment are made from templates; the prompt is pruned by 40 of them at several thresholds, and asked 200 others.
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


def compress(prompt, task, threshold, model, device):
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "prompt.txt").write_text(prompt)
        Path(folder, "task.jsonl").write_text("\n".join(map(json.dumps, task)))
        command = [DROPCAP, "compress", f"{folder}/prompt.txt", "--task", f"{folder}/task.jsonl", "--model", model]
        command += ["--device", device, "--threshold", str(threshold), "--json"]
        return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def accuracy(prompt, model, device):
    """On others: a threshold that no step reaches leaves the prompt as it is."""
    return compress(prompt, examples(200, 2), 1e9, model, device)["before"]["accuracy"]


def main():
    model, device = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "auto"
    print("| threshold | tokens | kept | accuracy, 200 others | prompts tried | s |\n|---|---|---|---|---|---|")
    print(f"| whole | | 100 % | {accuracy(PROMPT, model, device):.3f} | | |", flush=True)
    for threshold in (1.0, 0.98, 0.96, 0.9):
        found = compress(PROMPT, examples(40, 1), threshold, model, device)
        after = accuracy(found["text"], model, device)
        print(
            f"| {threshold} | {found['tokens_after']} | {100 * found['share']:.0f} % | {after:.3f} | {found['evaluations']} |"
            f" {found['seconds']:.0f} |",
            flush=True,
        )


main()
